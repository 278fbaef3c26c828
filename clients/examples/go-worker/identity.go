package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
)

// identity is the worker: whoever has this key is this member. TLS keys come and go, this one stays.
type identity struct{ key ed25519.PrivateKey }

func (i identity) publicKey() []byte { return i.key.Public().(ed25519.PublicKey) }

func (i identity) did() string {
	return "did:key:z" + base58(append([]byte{0xed, 0x01}, i.publicKey()...))
}

const base58Digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

func base58(data []byte) string { // Of bytes that do not begin with zero.
	number, base, digit := new(big.Int).SetBytes(data), big.NewInt(58), new(big.Int)
	var text []byte
	for number.Sign() > 0 {
		number.DivMod(number, base, digit)
		text = append([]byte{base58Digits[digit.Int64()]}, text...)
	}
	return string(text)
}

// tlsKey is a key for TLS, its SubjectPublicKeyInfo, and the request for its certificate.
type tlsKey struct {
	private *ecdsa.PrivateKey
	spki    []byte
	request []byte
}

func (i identity) newTLSKey() (tlsKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tlsKey{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return tlsKey{}, err
	}
	extension, err := asn1.Marshal(struct{ PublicKey, Signature []byte }{
		append([]byte{0x08, 0x01, 0x12, 0x20}, i.publicKey()...),
		ed25519.Sign(i.key, append([]byte("libp2p-tls-handshake:"), spki...)),
	})
	if err != nil {
		return tlsKey{}, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 53594, 1, 1}, Value: extension}},
	}, private)
	return tlsKey{private, spki, request}, err
}

func (i identity) enrolmentProof(tokenID string, key tlsKey) []byte {
	return ed25519.Sign(i.key, append([]byte("cluster-enrol-v1:"+tokenID), key.spki...))
}

func (i identity) renewalProof(current *x509.Certificate, key tlsKey) []byte {
	hash := sha256.Sum256(current.Raw)
	return ed25519.Sign(i.key, append(append([]byte("cluster-renew-v1:"), hash[:]...), key.spki...))
}

// credentials is what TLS needs: the certificate with its key, and the roots to trust; and the epoch of both.
type credentials struct {
	certificate tls.Certificate
	roots       *x509.CertPool
	epoch       int64
}

func newCredentials(key tlsKey, certificatePEM, bundlePEM string, epoch int64) (credentials, error) {
	block, _ := pem.Decode([]byte(certificatePEM))
	if block == nil {
		return credentials{}, errors.New("the answer has no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return credentials{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundlePEM)) {
		return credentials{}, errors.New("the answer has no roots")
	}
	certificate := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key.private, Leaf: leaf}
	return credentials{certificate, roots, epoch}, nil
}

func (c credentials) config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.certificate}, RootCAs: c.roots, MinVersion: tls.VersionTLS13}
}

// joinToken is `cj1.<SHA-256 of the CA's key>.<id>.<secret>`; `@` and addresses of masters may follow.
type joinToken struct{ pin, id, secret string }

func parseToken(text string) (joinToken, error) {
	token, _, _ := strings.Cut(text, "@")
	parts := strings.Split(token, ".")
	if len(parts) != 4 || parts[0] != "cj1" {
		return joinToken{}, errors.New("a join token looks like cj1.<64 hex>.<16 hex>.<32 hex>")
	}
	return joinToken{parts[1], parts[2], parts[3]}, nil
}

// pinned trusts the one CA whose key the token names: the worker has no root yet. InsecureSkipVerify only turns off
// Go's own check, in whose place VerifyConnection verifies both the chain and the host.
func (t joinToken) pinned(endpoint string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, err
	}
	verify := func(state tls.ConnectionState) error {
		for _, certificate := range state.PeerCertificates {
			if fmt.Sprintf("%x", sha256.Sum256(certificate.RawSubjectPublicKeyInfo)) != t.pin {
				continue
			}
			roots := x509.NewCertPool()
			roots.AddCert(certificate)
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
			return err
		}
		return errors.New("another cluster answers there: the token's CA is not in its chain")
	}
	return &tls.Config{InsecureSkipVerify: true, VerifyConnection: verify, MinVersion: tls.VersionTLS13}, nil
}
