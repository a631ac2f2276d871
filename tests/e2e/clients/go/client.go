// tests/e2e/clients/go/client.go - what a grpc-go client, generated from the .proto files alone, gets of a cluster.
//
// usage: client OPEN GUARDED EMPTY BROKEN HELD LEAVING STANDBY LEADER SHA256, as tests/e2e/clients/python/client.py.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "diptych.example/client/diptychv1"
)

var checks int

// Rows of the error table, by their reasons: those to be met, and those that have been.
var expected = strings.Fields("BAD_FIELD PROMPT_TOO_LONG MESSAGE_TOO_LARGE NO_CREDENTIAL BAD_CREDENTIAL ROLE_REQUIRED MODEL_UNKNOWN " +
	"REQUEST_UNKNOWN WORKER_UNKNOWN REQUEST_ID_REUSED QUOTA OVERLOADED NO_WORKERS DRAINING QUEUE_TIME DEADLINE CANCELLED")
var walked = map[string]bool{}

func check(what string, isRight bool, found ...any) {
	checks++
	if !isRight {
		fmt.Println("FAILED:", what, found)
		os.Exit(1)
	}
}

func soon(seconds int) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Duration(seconds)*time.Second)
}

func dial(address string) *grpc.ClientConn {
	connection, err := grpc.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	check("dial", err == nil, err)
	return connection
}

func request(more func(*pb.GenerateRequest)) *pb.GenerateRequest {
	r := &pb.GenerateRequest{Prompt: "dog", Sampling: &pb.Sampling{
		SeedPresence:           &pb.Sampling_Seed{Seed: 5},
		DiffusionStepsPresence: &pb.Sampling_DiffusionSteps{DiffusionSteps: 4},
	}}
	if more != nil {
		more(r)
	}
	return r
}

func long(r *pb.GenerateRequest) {
	r.N = 8
	r.Sampling.DiffusionStepsPresence = &pb.Sampling_DiffusionSteps{DiffusionSteps: 1000}
}

// events reads a Generate or Watch stream to its end.
func events(next func() (*pb.Event, error)) ([]*pb.Event, error) {
	var list []*pb.Event
	for {
		event, err := next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, event)
	}
}

func generate(ctx context.Context, images pb.ImageServiceClient, r *pb.GenerateRequest) ([]*pb.Event, error) {
	stream, err := images.Generate(ctx, r)
	if err != nil {
		return nil, err
	}
	return events(func() (*pb.Event, error) { m, err := stream.Recv(); return m.GetEvent(), err })
}

func watch(ctx context.Context, images pb.ImageServiceClient, id string) ([]*pb.Event, error) {
	stream, err := images.Watch(ctx, &pb.WatchRequest{RequestId: id})
	if err != nil {
		return nil, err
	}
	return events(func() (*pb.Event, error) { m, err := stream.Recv(); return m.GetEvent(), err })
}

// refused: the error has this code, and one ErrorInfo with this reason. Its other details are returned.
func refused(what string, err error, code codes.Code, reason string) (bad *errdetails.BadRequest, retry *errdetails.RetryInfo) {
	var info *errdetails.ErrorInfo
	for _, detail := range status.Convert(err).Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.BadRequest:
			bad = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	check(what, status.Code(err) == code && info.GetReason() == reason && info.GetDomain() == "diptych", err, info)
	walked[reason] = true
	return bad, retry
}

func lookAround(open *grpc.ClientConn) {
	ctx, cancel := soon(20)
	defer cancel()
	stream, err := reflection.NewServerReflectionClient(open).ServerReflectionInfo(ctx)
	check("reflection", err == nil, err)
	check("reflection asked", stream.Send(&reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_ListServices{ListServices: "*"}}) == nil)
	answer, err := stream.Recv()
	check("reflection lists services", err == nil && strings.Contains(fmt.Sprint(answer), "diptych.v1.ImageService"), answer, err)
	check("reflection ends", stream.CloseSend() == nil)
	for _, service := range []string{"", "ar", "diffusion", "diptych.v1.ImageService", "diptych.v1.ModelService", "diptych.v1.ClusterService"} {
		answer, err := health.NewHealthClient(open).Check(ctx, &health.HealthCheckRequest{Service: service})
		check("health of "+service, err == nil && answer.Status == health.HealthCheckResponse_SERVING, answer, err)
	}
	model, err := pb.NewModelServiceClient(open).GetModel(ctx, &pb.GetModelRequest{})
	check("the model is ready", err == nil && model.GetModel().GetReady(), model, err)
}

func streamImages(images pb.ImageServiceClient, expected string) {
	ctx, cancel := soon(120)
	defer cancel()
	list, err := generate(ctx, images, request(func(r *pb.GenerateRequest) {
		r.N, r.RequestId, r.Progress = 2, "go-two-images", &pb.Progress{Previews: 2}
	}))
	check("two images", err == nil && len(list) > 4, err)
	check("first event", list[0].GetAdmitted().GetSeed() == 5, list[0])
	check("last event", list[len(list)-1].GetCompleted().GetUsage().GetImages() == 2, list[len(list)-1])
	previews, finals := 0, 0
	for i, event := range list {
		check("no holes", event.Sequence == uint64(i+1), event)
		if event.GetPreview() != nil {
			previews++
		}
		if final := event.GetFinalImage(); final != nil {
			finals++
			hash := fmt.Sprintf("%x", sha256.Sum256(final.Data))
			check("a whole file", hash == fmt.Sprintf("%x", final.Sha256), hash)
			check("the embedded program's bytes", final.ImageIndex != 0 || hash == expected, hash)
		}
	}
	check("all of them", previews > 0 && finals == 2, previews, finals)
	again, err := watch(ctx, images, "go-two-images")
	check("Watch repeats them", err == nil && again[len(again)-1].GetCompleted() != nil, err)
	_, err = generate(ctx, images, request(func(r *pb.GenerateRequest) { r.RequestId = "go-two-images" }))
	refused("the same id for another request", err, codes.AlreadyExists, "REQUEST_ID_REUSED")
}

func cancelSome(images pb.ImageServiceClient) {
	ctx, cancel := soon(120)
	defer cancel()
	stream, err := images.Generate(ctx, request(func(r *pb.GenerateRequest) { long(r); r.RequestId = "go-cancelled" }))
	check("a long one", err == nil, err)
	_, err = stream.Recv()
	check("admitted", err == nil, err)
	answer, err := images.Cancel(ctx, &pb.CancelRequest{RequestId: "go-cancelled", Reason: "changed my mind"})
	check("cancelled", err == nil && answer.State == pb.JobState_JOB_STATE_CANCELLED, answer, err)
	_, err = events(func() (*pb.Event, error) { m, err := stream.Recv(); return m.GetEvent(), err })
	refused("a cancelled stream", err, codes.Canceled, "CANCELLED")
	short, leave := context.WithCancel(ctx)
	left, err := images.Generate(short, request(long))
	check("another long one", err == nil, err)
	_, err = left.Recv()
	check("admitted, too", err == nil, err)
	leave()
	_, err = events(func() (*pb.Event, error) { m, err := left.Recv(); return m.GetEvent(), err })
	check("left", status.Code(err) == codes.Canceled, err)
}

func meetErrors(open *grpc.ClientConn, images pb.ImageServiceClient) {
	ctx, cancel := soon(60)
	defer cancel()
	for what, more := range map[string]func(*pb.GenerateRequest){
		"no prompt":                  func(r *pb.GenerateRequest) { r.Prompt = "" },
		"too many images":            func(r *pb.GenerateRequest) { r.N = 1000 },
		"a size that is no multiple": func(r *pb.GenerateRequest) { r.Output = &pb.Output{Width: 63, Height: 63} },
	} {
		_, err := generate(ctx, images, request(more))
		bad, _ := refused(what, err, codes.InvalidArgument, "BAD_FIELD")
		check(what+": names the field", bad.GetFieldViolations()[0].GetField() != "", bad)
	}
	_, err := generate(ctx, images, request(func(r *pb.GenerateRequest) { r.Prompt = strings.Repeat("word ", 3200) }))
	refused("a long prompt", err, codes.InvalidArgument, "PROMPT_TOO_LONG")
	for _, size := range []int{100 << 10, 20 << 20} { // the second is beyond what any method of the server takes
		large, err := images.Generate(ctx, request(func(r *pb.GenerateRequest) { r.Prompt = strings.Repeat("x", size) }))
		check("a call that is too large", err == nil, err)
		_, err = large.Recv()
		refused("a message that is too large", err, codes.ResourceExhausted, "MESSAGE_TOO_LARGE")
		length, _ := strconv.Atoi(infoOf(err).Metadata["length"])
		check("how large", length > size, err)
		pushback := large.Trailer().Get("grpc-retry-pushback-ms")
		check("do not try again", len(pushback) == 1 && pushback[0][0] == '-', pushback, err)
	}
	_, err = generate(ctx, images, request(func(r *pb.GenerateRequest) { r.Model = "nobody's" }))
	refused("an unknown model", err, codes.NotFound, "MODEL_UNKNOWN")
	_, err = watch(ctx, images, "never-sent")
	refused("an unknown request", err, codes.NotFound, "REQUEST_UNKNOWN")
	_, err = pb.NewClusterServiceClient(open).Drain(ctx, &pb.DrainRequest{Worker: "nobody"})
	refused("an unknown worker", err, codes.NotFound, "WORKER_UNKNOWN")
}

func meetGuards(guarded, empty *grpc.ClientConn) {
	ctx, cancel := soon(60)
	defer cancel()
	as := func(word string) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+word)
	}
	images := pb.NewImageServiceClient(guarded)
	_, err := generate(ctx, images, request(nil))
	refused("no token", err, codes.Unauthenticated, "NO_CREDENTIAL")
	_, err = generate(as("guessed-it"), images, request(nil))
	refused("a guessed token", err, codes.Unauthenticated, "BAD_CREDENTIAL")
	_, err = pb.NewClusterServiceClient(guarded).Drain(as("word-of-team-a"), &pb.DrainRequest{Worker: "ar-0"})
	refused("a client that drains", err, codes.PermissionDenied, "ROLE_REQUIRED")
	held, leave := context.WithCancel(as("word-of-team-a"))
	defer leave()
	stream, err := images.Generate(held, request(long))
	check("a long one", err == nil, err)
	_, err = stream.Recv()
	check("admitted", err == nil, err)
	_, err = generate(as("word-of-team-a"), images, request(nil))
	_, retry := refused("a tenant's second request", err, codes.ResourceExhausted, "QUOTA")
	check("QUOTA says how long", retry.GetRetryDelay() != nil, retry)
	_, err = generate(as("word-of-team-b"), images, request(nil))
	_, retry = refused("a full queue", err, codes.Unavailable, "OVERLOADED")
	check("OVERLOADED says how long", retry.GetRetryDelay() != nil, retry)
	_, err = generate(ctx, pb.NewImageServiceClient(empty), request(nil))
	refused("no workers", err, codes.Unavailable, "NO_WORKERS")
}

// infoOf: the ErrorInfo of an error; empty when it has none.
func infoOf(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return &errdetails.ErrorInfo{}
}

// meetWaits: nobody comes, and a wait ends by its own limit or by the server's deadline. Who is told to stop takes nothing new.
func meetWaits(held, leaving pb.ImageServiceClient) {
	ctx, cancel := soon(60)
	defer cancel()
	_, err := generate(ctx, held, request(func(r *pb.GenerateRequest) {
		r.Scheduling = &pb.Scheduling{MaxQueueTime: durationpb.New(300 * time.Millisecond)}
	}))
	refused("a wait of its own", err, codes.DeadlineExceeded, "QUEUE_TIME")
	_, err = generate(ctx, held, request(nil))
	refused("the server's deadline", err, codes.DeadlineExceeded, "DEADLINE")
	_, err = generate(ctx, leaving, request(nil))
	refused("a coordinator that stops", err, codes.Unavailable, "DRAINING")
}

// meetFailures: a worker that does what none should, python/rogue.py, by the request's id.
func meetFailures(broken pb.ImageServiceClient) {
	ctx, cancel := soon(60)
	defer cancel()
	for _, row := range []struct {
		kind, reason, fact string
		code               codes.Code
	}{
		{"bug", "BUG", "error_id", codes.Internal},
		{"poison", "POISONED", "attempts", codes.FailedPrecondition},
		{"lost", "WORKER_LOST", "attempts", codes.Unavailable},
	} {
		_, err := generate(ctx, broken, request(func(r *pb.GenerateRequest) { r.RequestId = "go-" + row.kind }))
		refused("a worker's "+row.kind, err, row.code, row.reason)
		check(row.reason+" tells more", infoOf(err).Metadata[row.fact] != "", infoOf(err))
		expected = append(expected, row.reason)
	}
}

// meetStandby: it passes calls on to the leader; one that has been passed on already is told who leads.
func meetStandby(standby *grpc.ClientConn, leader string) {
	plain, cancel := soon(60)
	defer cancel()
	ctx := metadata.AppendToOutgoingContext(plain, "diptych-forwarded", "1")
	images, cluster := pb.NewImageServiceClient(standby), pb.NewClusterServiceClient(standby)
	for what, call := range map[string]func() error{
		"Generate":     func() error { _, err := generate(ctx, images, request(nil)); return err },
		"Watch":        func() error { _, err := watch(ctx, images, "somebodys"); return err },
		"ListWorkers":  func() error { _, err := cluster.ListWorkers(ctx, &pb.ListWorkersRequest{}); return err },
		"GetScaleHint": func() error { _, err := cluster.GetScaleHint(ctx, &pb.GetScaleHintRequest{}); return err },
	} {
		err := call()
		refused(what+" of a standby", err, codes.Unavailable, "NOT_LEADER")
		check(what+": who leads", infoOf(err).Metadata["leader"] == leader, infoOf(err))
	}
	_, err := generate(plain, images, request(nil))
	refused("a request that is passed on", err, codes.Unavailable, "NO_WORKERS")
	answer, err := cluster.GetCluster(plain, &pb.GetClusterRequest{})
	check("GetCluster says who leads", err == nil && answer.Leader == leader, answer, err)
}

func main() {
	open, guarded, empty := dial(os.Args[1]), dial(os.Args[2]), dial(os.Args[3])
	images := pb.NewImageServiceClient(open)
	lookAround(open)
	streamImages(images, os.Args[9])
	cancelSome(images)
	meetErrors(open, images)
	meetGuards(guarded, empty)
	meetWaits(pb.NewImageServiceClient(dial(os.Args[5])), pb.NewImageServiceClient(dial(os.Args[6])))
	if os.Args[4] != "-" {
		meetFailures(pb.NewImageServiceClient(dial(os.Args[4])))
	}
	if os.Args[8] != "-" {
		meetStandby(dial(os.Args[7]), os.Args[8])
		expected = append(expected, "NOT_LEADER")
	}
	for _, reason := range expected {
		check("every row of the error table", walked[reason], reason)
	}
	fmt.Printf("go grpc %s: %d checks, %d rows of the error table\n", grpc.Version, checks, len(expected))
}
