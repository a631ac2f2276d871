// docs/clients/go/generate.go - stream an image from a diptych cluster, previews included.
//
// Stubs come from the .proto files alone (protoc-gen-go v1.31.0, protoc-gen-go-grpc v1.3.0); tests/e2e/clients.sh has
// the whole command. Then: generate 127.0.0.1:50051 "a red circle" out.png
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "diptych.example/client/diptychv1"
)

type receiver interface{ next() (*pb.Event, error) }
type generating struct{ pb.ImageService_GenerateClient }
type watching struct{ pb.ImageService_WatchClient }

func (s generating) next() (*pb.Event, error) { r, err := s.Recv(); return r.GetEvent(), err }
func (s watching) next() (*pb.Event, error)   { r, err := s.Recv(); return r.GetEvent(), err }

// generate calls take for each event of one request; a stream that breaks is taken up where it broke.
func generate(ctx context.Context, images pb.ImageServiceClient, request *pb.GenerateRequest, take func(*pb.Event) error) error {
	call, err := images.Generate(ctx, request)
	if err != nil {
		return err
	}
	var stream receiver = generating{call}
	var seen uint64
	for {
		event, err := stream.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case status.Code(err) == codes.Unavailable && seen > 0:
			again, err := images.Watch(ctx, &pb.WatchRequest{RequestId: request.RequestId, AfterSequence: seen})
			if err != nil {
				return err
			}
			stream = watching{again}
		case err != nil:
			return err
		default:
			seen = event.Sequence
			if err := take(event); err != nil {
				return err
			}
		}
	}
}

func main() {
	address, prompt, path := os.Args[1], os.Args[2], os.Args[3]
	connection, err := grpc.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()

	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		log.Fatal(err)
	}
	request := &pb.GenerateRequest{RequestId: fmt.Sprintf("%x", id), Prompt: prompt, Progress: &pb.Progress{Previews: 3}}
	var parts []byte
	err = generate(ctx, pb.NewImageServiceClient(connection), request, func(event *pb.Event) error {
		switch kind := event.Kind.(type) {
		case *pb.Event_Admitted:
			fmt.Printf("seed %d, %d ahead\n", kind.Admitted.Seed, kind.Admitted.QueuePosition)
		case *pb.Event_Tokens:
			fmt.Printf("tokens %d/%d\n", kind.Tokens.TokensDone, kind.Tokens.TokensTotal)
		case *pb.Event_Steps:
			fmt.Printf("steps %d/%d\n", kind.Steps.StepsDone, kind.Steps.StepsTotal)
		case *pb.Event_Preview:
			return os.WriteFile(fmt.Sprintf("%s.preview-%d.png", path, kind.Preview.PreviewIndex), kind.Preview.Data, 0o644)
		case *pb.Event_Chunk: // files above 1 MiB come in parts
			parts = append(parts, kind.Chunk.Data...)
		case *pb.Event_FinalImage:
			if data := kind.FinalImage.Data; len(data) > 0 {
				parts = data
			}
			fmt.Printf("%s: sha256 %x\n", path, kind.FinalImage.Sha256)
			return os.WriteFile(path, parts, 0o644)
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}
