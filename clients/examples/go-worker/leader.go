package main

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	callSeconds  = 10 * time.Second
	retrySeconds = 200 * time.Millisecond
)

// leader is the connection to the master that leads, as far as the worker knows.
type leader struct {
	mu          sync.Mutex
	credentials credentials
	masters     []string // Addresses; the first is the one in use.
	connection  *grpc.ClientConn
}

func (l *leader) current() (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.connection == nil {
		connection, err := dial(l.masters[0], l.credentials)
		if err != nil {
			return nil, err
		}
		l.connection = connection
	}
	return l.connection, nil
}

func dial(endpoint string, with credentials) (*grpc.ClientConn, error) {
	return grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(grpccredentials.NewTLS(with.config())),
		// A stopped master is noticed within 10 + 5 s; the nodes take up to 2 pings a second.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
}

// follow goes to the leader that a refusal names, else to the next master. `from` is the connection that failed: if
// another call has moved on meanwhile, nothing changes.
func (l *leader) follow(from *grpc.ClientConn, trailer metadata.MD) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.connection != from {
		return
	}
	if named := trailer.Get("ipfs-cluster-node-leader-endpoint"); len(named) > 0 {
		l.masters = append(named, without(l.masters, named[0])...)
	} else {
		l.masters = append(l.masters[1:], l.masters[0])
	}
	l.drop()
}

// learn takes the masters' addresses of a heartbeat, the leader's first.
func (l *leader) learn(masters []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(masters) > 0 {
		l.masters = masters
	}
}

// renewed makes new connections with another certificate; calls on the old one end, and are made again.
func (l *leader) renewed(with credentials) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.credentials = with
	l.drop()
}

func (l *leader) certificate() (leaf *x509.Certificate, epoch int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.credentials.certificate.Leaf, l.credentials.epoch
}

func (l *leader) drop() {
	if l.connection != nil {
		l.connection.Close()
		l.connection = nil
	}
}

func without(all []string, one string) []string {
	var others []string
	for _, each := range all {
		if each != one {
			others = append(others, each)
		}
	}
	return others
}

// call calls until a leader has answered, or the context ends. Only what no leader answered is repeated: all calls of
// this worker may be made again. A master that does not answer in time is left like one that can't be reached.
func (l *leader) call(ctx context.Context, what func(context.Context, *grpc.ClientConn, *metadata.MD) error) error {
	ctx, cancel := context.WithTimeout(ctx, callSeconds)
	defer cancel()
	for {
		connection, err := l.current()
		if err != nil {
			return err
		}
		var trailer metadata.MD
		err = what(ctx, connection, &trailer)
		switch status.Code(err) {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		default:
			return err
		}
		l.follow(connection, trailer)
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(retrySeconds):
		}
	}
}
