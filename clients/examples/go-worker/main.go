// A worker in Go, by docs/workers-in-other-languages.md: it enrols with a join token, and runs tasks of the type
// `go_upper`, which gives back its payload, or its input, in upper case.
//
//	go-worker -token cj1.… -enrolment HOST:9095
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	"log"
	"sync/atomic"
	"time"

	v1 "ipfs-cluster-node.alt/ipfs_cluster_node/v1"
	worker "ipfs-cluster-node.alt/ipfs_cluster_node/worker/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	version           = "0.1"
	slots             = 2
	heartbeatsInLease = 5
)

func main() {
	token := flag.String("token", "", "join token of the role worker")
	enrolment := flag.String("enrolment", "", "a master's enrolment port, host:port")
	renewAfter := flag.Duration("renew-after", 0, "renew the certificate after this; 0: after half of its lifetime")
	flag.Parse()
	log.SetFlags(0)
	if err := run(context.Background(), *token, *enrolment, *renewAfter); err != nil {
		log.Fatalf("error: %v", err)
	}
}

func run(ctx context.Context, tokenText, enrolment string, renewAfter time.Duration) error {
	token, err := parseToken(tokenText)
	if err != nil {
		return err
	}
	// A real worker keeps the key and the certificate in files of mode 0600: a lost key is a lost member.
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	me := identity{private}
	leader, err := enrol(ctx, me, token, enrolment)
	if err != nil {
		return err
	}
	fmt.Println("enrolled", me.did())
	node := &node{me: me, leader: leader, boot: boot(), attempts: newAttempts()}
	if renewAfter == 0 {
		renewAfter = time.Until(leader.certificate().NotAfter) / 2
	}
	go node.renewAfter(ctx, renewAfter)
	go node.heartbeats(ctx)
	node.sessions(ctx)
	return nil
}

// boot identifies this process, so that two of one identity are noticed.
func boot() uint64 {
	var bytes [8]byte
	rand.Read(bytes[:])
	return binary.LittleEndian.Uint64(bytes[:])
}

func enrol(ctx context.Context, me identity, token joinToken, endpoint string) (*leader, error) {
	pinned, err := token.pinned(endpoint)
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(grpccredentials.NewTLS(pinned)))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	key, err := me.newTLSKey()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callSeconds)
	defer cancel()
	answer, err := v1.NewEnrolmentServiceClient(connection).Enrol(ctx, &v1.EnrolRequest{
		RequestId:          token.id,
		TokenId:            token.id,
		TokenSecret:        token.secret,
		Did:                me.did(),
		CertificateRequest: key.request,
		Proof:              me.enrolmentProof(token.id, key),
		Name:               "go-worker",
	})
	if err != nil {
		return nil, err
	}
	credentials, err := newCredentials(key, answer.CertificatePem, answer.TrustBundlePem)
	if err != nil {
		return nil, err
	}
	leader := &leader{credentials: credentials}
	for _, master := range answer.Masters {
		leader.masters = append(leader.masters, master.Endpoints...)
	}
	return leader, nil
}

// node is this worker as a member: registered, heard, and with a session.
type node struct {
	me        identity
	leader    *leader
	boot      uint64
	attempts  *attempts
	leaseEnds atomic.Int64 // On this process's clock; 0 before the first heartbeat.
}

var started = time.Now() // time.Since reads the monotonic clock.

func (n *node) leaseLeft() time.Duration {
	return time.Duration(n.leaseEnds.Load()) - time.Since(started)
}

func (n *node) register(ctx context.Context) error {
	return n.leader.call(ctx, func(ctx context.Context, to *grpc.ClientConn, trailer *metadata.MD) error {
		_, err := worker.NewNodeServiceClient(to).RegisterNode(ctx, &worker.RegisterNodeRequest{
			TaskTypes: []string{"go_upper"}, SlotCount: slots, Version: version, Boot: n.boot,
		}, grpc.Trailer(trailer))
		return err
	})
}

// heartbeats registers, then renews the lease for as long as the worker runs.
func (n *node) heartbeats(ctx context.Context) {
	registered := false
	for {
		pause := retrySeconds
		err := error(nil)
		if !registered {
			err = n.register(ctx)
		}
		if err == nil {
			registered = true
			pause, err = n.heartbeat(ctx)
		}
		if err != nil {
			log.Printf("no contact with the leader: %v", err)
			registered = status.Code(err) != codes.NotFound // MEMBER_NOT_FOUND: register again.
			pause = retrySeconds
		}
		time.Sleep(pause)
	}
}

func (n *node) heartbeat(ctx context.Context) (time.Duration, error) {
	var answer *worker.HeartbeatResponse
	var sent time.Duration
	err := n.leader.call(ctx, func(ctx context.Context, to *grpc.ClientConn, trailer *metadata.MD) (err error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		sent = time.Since(started)
		answer, err = worker.NewNodeServiceClient(to).Heartbeat(ctx, &worker.HeartbeatRequest{
			Boot: n.boot,
		}, grpc.Trailer(trailer))
		return err
	})
	if err != nil {
		return 0, err
	}
	// From before the call: the leader counts from later, so the lease never ends here after it ends there.
	lease := answer.NodeLease.AsDuration()
	n.leaseEnds.Store(int64(sent + lease))
	var masters []string
	for _, master := range answer.Masters {
		masters = append(masters, master.Endpoints...)
	}
	n.leader.learn(masters)
	return min(time.Second, lease/heartbeatsInLease), nil
}

// renewAfter gets a new certificate with a new key, and goes on with it.
func (n *node) renewAfter(ctx context.Context, pause time.Duration) {
	for {
		time.Sleep(pause)
		if err := n.renew(ctx); err != nil {
			log.Printf("certificate not renewed: %v", err)
			pause = time.Second
			continue
		}
		fmt.Println("renewed", n.leader.certificate().SerialNumber.Text(16))
		pause = time.Until(n.leader.certificate().NotAfter) / 2
	}
}

func (n *node) renew(ctx context.Context) error {
	key, err := n.me.newTLSKey()
	if err != nil {
		return err
	}
	var answer *v1.RenewCertificateResponse
	err = n.leader.call(ctx, func(ctx context.Context, to *grpc.ClientConn, trailer *metadata.MD) (err error) {
		answer, err = v1.NewCertificateServiceClient(to).RenewCertificate(ctx, &v1.RenewCertificateRequest{
			CertificateRequest: key.request, Proof: n.me.renewalProof(n.leader.certificate(), key),
		}, grpc.Trailer(trailer))
		return err
	})
	if err != nil {
		return err
	}
	credentials, err := newCredentials(key, answer.CertificatePem, answer.TrustBundlePem)
	if err != nil {
		return err
	}
	n.leader.renewed(credentials)
	return nil
}
