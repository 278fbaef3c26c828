package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"sync"
	"time"

	v1 "ipfs-cluster-node.alt/ipfs_cluster_node/v1"
	worker "ipfs-cluster-node.alt/ipfs_cluster_node/worker/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

const (
	inlineBytesMax = 64 << 10
	chunkBytes     = 1 << 20
	fenceMargin    = 200 * time.Millisecond
	outcomesMax    = 16 // In one message: with results of 64 KiB it is far below 4 MiB.
	pauseMax       = 5 * time.Second
)

// attempt is the key of an attempt: AttemptId as a value.
type attempt struct {
	task   string
	number int32
}

func attemptOf(id *worker.AttemptId) attempt { return attempt{id.TaskId, id.Attempt} }

func (a attempt) id() *worker.AttemptId {
	return &worker.AttemptId{TaskId: a.task, Attempt: a.number}
}

// held is an attempt from its assignment until its outcome is confirmed.
type held struct {
	cancel  context.CancelFunc
	outcome *worker.AttemptOutcome // Nil while it runs.
}

// attempts outlive sessions: what is not confirmed in one is reported in the next.
type attempts struct {
	mu   sync.Mutex
	held map[attempt]*held
	news chan struct{} // There is an outcome to send.
}

func newAttempts() *attempts {
	return &attempts{held: map[attempt]*held{}, news: make(chan struct{}, 1)}
}

func (a *attempts) ids() (ids []*worker.AttemptId) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for each := range a.held {
		ids = append(ids, each.id())
	}
	return ids
}

func (a *attempts) running() (count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, each := range a.held {
		if each.outcome == nil {
			count++
		}
	}
	return count
}

func (a *attempts) outcomes() (outcomes []*worker.AttemptOutcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, each := range a.held {
		if each.outcome != nil && len(outcomes) < outcomesMax {
			outcomes = append(outcomes, each.outcome)
		}
	}
	return outcomes
}

// drop forgets attempts, and ends those that still run: cancelled, stale or confirmed.
func (a *attempts) drop(ids []*worker.AttemptId) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if each := a.held[attemptOf(id)]; each != nil {
			each.cancel()
			delete(a.held, attemptOf(id))
		}
	}
}

// finish keeps an outcome until it is confirmed; one of an attempt that was dropped, or has one, is nobody's.
func (a *attempts) finish(of attempt, outcome *worker.AttemptOutcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	each := a.held[of]
	if each == nil || each.outcome != nil {
		return
	}
	each.cancel()
	each.outcome = outcome
	select {
	case a.news <- struct{}{}:
	default:
	}
}

func failed(of attempt, reason v1.ErrorReason, message string, retryable bool) *worker.AttemptOutcome {
	return &worker.AttemptOutcome{Id: of.id(), Outcome: &worker.AttemptOutcome_Failure{
		Failure: &worker.AttemptFailure{Reason: reason, Message: message, Retryable: retryable},
	}}
}

// sessions holds a session with the leader, and a new one whenever it ends.
func (n *node) sessions(ctx context.Context) {
	go n.fence()
	for pause := retrySeconds; ; time.Sleep(pause) {
		if n.leaseLeft() > fenceMargin {
			begin := bootClock()
			to, err := n.leader.current()
			var trailer metadata.MD
			if err == nil {
				trailer, err = n.session(ctx, to)
				n.leader.follow(to, trailer)
			}
			log.Printf("session ended: %v", err)
			pause = min(2*pause, pauseMax)
			if bootClock()-begin > pauseMax {
				pause = retrySeconds
			}
		}
	}
}

func (n *node) session(ctx context.Context, to *grpc.ClientConn) (metadata.MD, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := worker.NewWorkerServiceClient(to).WorkerSession(ctx)
	if err != nil {
		return nil, err
	}
	hello := &worker.WorkerHello{
		Attempts: n.attempts.ids(), Boot: n.boot, ProtocolVersions: []int32{1},
		Sdk: &worker.Sdk{Name: "go-worker", Version: version},
	}
	if err := stream.Send(&worker.WorkerSessionRequest{Message: &worker.WorkerSessionRequest_Hello{Hello: hello}}); err != nil {
		return stream.Trailer(), err
	}
	first, err := stream.Recv()
	if err != nil {
		return stream.Trailer(), err
	}
	if version := first.GetWelcome().GetProtocolVersion(); version != 1 {
		return nil, fmt.Errorf("the leader speaks version %d", version)
	}
	n.attempts.drop(first.GetWelcome().Stale)
	fmt.Println("session")

	news := make(chan *worker.WorkerSessionResponse)
	ended := make(chan error, 1)
	go func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case news <- message:
			case <-ctx.Done():
				return
			}
		}
	}()
	granted, unconfirmed := 0, 0
	for { // One goroutine alone sends: a stream takes one sender.
		if credit := slots - n.attempts.running() - granted; credit > 0 && n.leaseLeft() > fenceMargin {
			granted += credit
			message := &worker.WorkerSessionRequest_Credit{Credit: &worker.WorkerCredit{AttemptCount: int32(credit)}}
			if err := stream.Send(&worker.WorkerSessionRequest{Message: message}); err != nil {
				return stream.Trailer(), <-ended // Send says only EOF; why is in what Recv returns.
			}
		}
		// One message of outcomes at a time: what ends meanwhile goes into the next one.
		if outcomes := n.attempts.outcomes(); unconfirmed == 0 && len(outcomes) > 0 {
			unconfirmed = len(outcomes)
			message := &worker.WorkerSessionRequest_Outcomes{Outcomes: &worker.AttemptOutcomes{Outcomes: outcomes}}
			if err := stream.Send(&worker.WorkerSessionRequest{Message: message}); err != nil {
				return stream.Trailer(), <-ended
			}
		}
		select {
		case err := <-ended:
			return stream.Trailer(), err
		case <-n.attempts.news:
		case <-time.After(time.Second): // The lease may be back.
		case message := <-news:
			switch message := message.Message.(type) {
			case *worker.WorkerSessionResponse_Assignments:
				for _, each := range message.Assignments.Assignments {
					granted--
					n.start(each)
				}
			case *worker.WorkerSessionResponse_Confirmed:
				n.attempts.drop(message.Confirmed.Ids)
				unconfirmed -= len(message.Confirmed.Ids)
			case *worker.WorkerSessionResponse_Cancellations:
				n.attempts.drop(message.Cancellations.Ids)
			} // Another case is of a newer leader, which relies on nothing here.
		}
	}
}

// fence ends attempts before the lease does: then another worker may run them.
func (n *node) fence() {
	for ; ; time.Sleep(fenceMargin / 4) {
		if n.leaseLeft() > fenceMargin {
			continue
		}
		n.attempts.mu.Lock()
		var lost []attempt
		for each, held := range n.attempts.held {
			if held.outcome == nil {
				lost = append(lost, each)
			}
		}
		n.attempts.mu.Unlock()
		for _, each := range lost {
			n.attempts.finish(each, failed(each, v1.ErrorReason_ERROR_REASON_WORKER_LOST, "the worker's lease ran out", true))
		}
	}
}

func (n *node) start(assignment *worker.Assignment) {
	of := attemptOf(assignment.Id)
	n.attempts.mu.Lock()
	defer n.attempts.mu.Unlock()
	if n.attempts.held[of] != nil {
		return
	}
	// Of no session: an attempt goes on while the lease lasts. The worker alone enforces the attempt's time limit.
	ctx, cancel := context.WithTimeout(context.Background(), assignment.Spec.AttemptTimeout.AsDuration())
	n.attempts.held[of] = &held{cancel: cancel}
	go func() {
		result, err := n.upper(ctx, of, assignment.Spec)
		switch {
		case ctx.Err() == context.DeadlineExceeded:
			n.attempts.finish(of, failed(of, v1.ErrorReason_ERROR_REASON_ATTEMPT_TIMED_OUT, "the attempt's time is over", false))
		case err != nil:
			n.attempts.finish(of, failed(of, v1.ErrorReason_ERROR_REASON_HANDLER_FAILED, err.Error(), true))
		default:
			n.attempts.finish(of, &worker.AttemptOutcome{Id: of.id(), Outcome: &worker.AttemptOutcome_Result{Result: result}})
		}
	}()
}

// upper is the handler.
func (n *node) upper(ctx context.Context, of attempt, spec *v1.TaskSpec) (*v1.TaskResult, error) {
	text := spec.Payload
	for _, input := range spec.Inputs {
		bytes, err := n.fetch(ctx, of, input.Cid)
		if err != nil {
			return nil, err
		}
		text = append(text, bytes...)
	}
	text = bytes.ToUpper(text)
	if len(text) <= inlineBytesMax {
		return &v1.TaskResult{Data: text, ContentType: "text/plain; charset=utf-8"}, nil
	}
	added, err := n.add(ctx, of, text)
	if err != nil {
		return nil, err
	}
	return &v1.TaskResult{Cid: added.Cid, SizeBytes: added.SizeBytes}, nil
}

// as names the attempt, which gives this worker the right to its files.
func (a attempt) as(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "ipfs-cluster-node-attempt", fmt.Sprintf("%s.%d", a.task, a.number))
}

func (n *node) fetch(ctx context.Context, of attempt, cid string) (file []byte, err error) {
	err = n.leader.call(of.as(ctx), func(ctx context.Context, to *grpc.ClientConn, trailer *metadata.MD) error {
		file = nil
		stream, err := v1.NewContentServiceClient(to).GetContent(ctx, &v1.GetContentRequest{Cid: cid}, grpc.Trailer(trailer))
		if err != nil {
			return err
		}
		for {
			part, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			file = append(file, part.Data...)
		}
	})
	return file, err
}

func (n *node) add(ctx context.Context, of attempt, file []byte) (added *v1.AddContentResponse, err error) {
	err = n.leader.call(of.as(ctx), func(ctx context.Context, to *grpc.ClientConn, trailer *metadata.MD) error {
		stream, err := v1.NewContentServiceClient(to).AddContent(ctx, grpc.Trailer(trailer))
		if err != nil {
			return err
		}
		header := &v1.AddContentHeader{RequestId: of.task, Name: "upper.txt", SizeBytes: proto.Int64(int64(len(file)))}
		err = stream.Send(&v1.AddContentRequest{Message: &v1.AddContentRequest_Header{Header: header}})
		for rest := file; err == nil && len(rest) > 0; {
			part := rest[:min(chunkBytes, len(rest))]
			rest = rest[len(part):]
			err = stream.Send(&v1.AddContentRequest{Message: &v1.AddContentRequest_Data{Data: part}})
		}
		// A failed Send says only EOF; CloseAndRecv has the reason.
		added, err = stream.CloseAndRecv()
		return err
	})
	return added, err
}
