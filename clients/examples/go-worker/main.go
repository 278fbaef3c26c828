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
	random "math/rand/v2"
	"sync/atomic"
	"time"

	v1 "ipfs-cluster-node.alt/ipfs_cluster_node/v1"
	worker "ipfs-cluster-node.alt/ipfs_cluster_node/worker/v1"

	"golang.org/x/sys/unix"
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
	renewAfter := flag.Duration("renew-after", 0, "renew the certificate after this; 0: after 50 to 80 % of its lifetime")
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
	node := &node{me: me, leader: leader, boot: boot(), attempts: newAttempts(), newEpoch: make(chan struct{}, 1)}
	if renewAfter == 0 {
		renewAfter = node.lifetime()
	}
	go node.renewals(ctx, renewAfter)
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
	credentials, err := newCredentials(key, answer.CertificatePem, answer.TrustBundlePem, answer.Epoch)
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
	leaseEnds atomic.Int64  // By bootClock; 0 before the first heartbeat.
	newEpoch  chan struct{} // The leader wants a certificate of a newer epoch.
}

// bootClock can't be set, and goes on while the machine is suspended, unlike what time.Since reads: the lease does too.
func bootClock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err)
	}
	return time.Duration(now.Nano())
}

func (n *node) leaseLeft() time.Duration {
	return time.Duration(n.leaseEnds.Load()) - bootClock()
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
	_, epoch := n.leader.certificate()
	err := n.leader.call(ctx, func(ctx context.Context, to *grpc.ClientConn, trailer *metadata.MD) (err error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		sent = bootClock()
		answer, err = worker.NewNodeServiceClient(to).Heartbeat(ctx, &worker.HeartbeatRequest{
			Boot: n.boot, CertificateEpoch: epoch,
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
	if answer.CertificateEpoch > epoch {
		select {
		case n.newEpoch <- struct{}{}:
		default:
		}
	}
	return min(time.Second, lease/heartbeatsInLease), nil
}

// lifetime is how long to go on with the certificate: 50 to 80 % of what is left of it, so that not all renew at once.
func (n *node) lifetime() time.Duration {
	leaf, _ := n.leader.certificate()
	return time.Duration(float64(time.Until(leaf.NotAfter)) * (0.5 + 0.3*random.Float64()))
}

// renewals gets a new certificate with a new key, and goes on with it, again and again.
func (n *node) renewals(ctx context.Context, pause time.Duration) {
	for {
		select {
		case <-time.After(pause):
		case <-n.newEpoch:
		}
		if err := n.renew(ctx); err != nil {
			log.Printf("certificate not renewed: %v", err)
			pause = time.Second
			continue
		}
		leaf, epoch := n.leader.certificate()
		fmt.Println("renewed", leaf.SerialNumber.Text(16), "epoch", epoch)
		pause = n.lifetime()
	}
}

func (n *node) renew(ctx context.Context) error {
	key, err := n.me.newTLSKey()
	if err != nil {
		return err
	}
	current, _ := n.leader.certificate()
	var answer *v1.RenewCertificateResponse
	err = n.leader.call(ctx, func(ctx context.Context, to *grpc.ClientConn, trailer *metadata.MD) (err error) {
		answer, err = v1.NewCertificateServiceClient(to).RenewCertificate(ctx, &v1.RenewCertificateRequest{
			CertificateRequest: key.request, Proof: n.me.renewalProof(current, key),
		}, grpc.Trailer(trailer))
		return err
	})
	if err != nil {
		return err
	}
	credentials, err := newCredentials(key, answer.CertificatePem, answer.TrustBundlePem, answer.Epoch)
	if err != nil {
		return err
	}
	n.leader.renewed(credentials)
	return nil
}
