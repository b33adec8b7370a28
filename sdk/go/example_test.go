package penstock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"time"

	penstock "penstock.dev/sdk/go"
)

func Example() {
	client, err := penstock.NewClient("localhost:50051")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	task, err := client.Send(ctx, "add", 1, 2)
	if err != nil {
		log.Fatal(err)
	}
	var sum int64
	err = task.Result(ctx, &sum)
	var failed *penstock.TaskError
	if errors.As(err, &failed) {
		log.Fatal("the task itself failed: ", failed.Message)
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum)
}

func ExampleClient_SendChord() {
	client, err := penstock.NewClient("gateway-1:50051,gateway-2:50051")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx := context.Background()

	// (1 + 1) * (2 + 2)
	chord, err := client.SendChord(ctx, []*penstock.Task{
		penstock.NewTask("add", 1, 1),
		penstock.NewTask("add", 2, 2),
	}, penstock.NewTask("multiply"))
	if err != nil {
		log.Fatal(err)
	}
	var product int64
	if err := chord.Result(ctx, &product); err != nil {
		log.Fatal(err)
	}
	fmt.Println(product)
}

func ExampleClient_SendStream() {
	client, err := penstock.NewClient("localhost:50051")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	tasks := []*penstock.Task{penstock.NewTask("add", 1), penstock.NewTask("add", 2)}
	for result, err := range client.SendStream(context.Background(), slices.Values(tasks)) {
		if err != nil {
			log.Fatal("the stream cannot go on: ", err)
		}
		if result.Err != nil {
			log.Printf("task %d was refused: %v", result.Index, result.Err)
		}
	}
}

func ExampleHandle_Watch() {
	client, err := penstock.NewClient("localhost:50051")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	for state, err := range client.Task("task_1").Watch(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(state.Status)
	}
}
