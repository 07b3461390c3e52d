package queue_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/queue/memqueue"
)

// An event is stored with a delivery for each webhook. The webhook's lane hands the
// delivery out. The receiver of the lease makes the attempt and settles the lease.
func Example() {
	ctx := context.Background()
	var q queue.Queue = memqueue.New(memqueue.Options{}) // or badgerqueue.Open
	defer func() { _ = q.Close(ctx) }()

	webhook, err := q.PutWebhook(ctx, queue.Webhook{Name: "crm"})
	if err != nil {
		log.Fatal(err)
	}
	_, err = q.Enqueue(ctx, queue.Entry{
		Type: "feedback.created", Feedback: queue.FeedbackID{Project: "proj_xyz", ID: "fb_abc123"},
		Created: time.Now(), Body: []byte(`{"event":"feedback.created"}`),
		Webhooks: []queue.WebhookID{webhook.ID},
	})
	if err != nil {
		log.Fatal(err) // nothing is stored; if err is nil, event and delivery are on disk
	}

	lane, err := q.Lane(webhook.ID, queue.LaneOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = lane.Close() }()
	for attempt := 1; attempt <= 2; attempt++ {
		leases, err := lane.Next(ctx, 1) // waits until a delivery is due
		if err != nil {
			log.Fatal(err)
		}
		lease := leases[0]
		fmt.Printf("attempt %d on rung %d: %s\n", attempt, lease.Delivery.Rung, lease.Event.Body)
		if attempt == 1 { // the receiver answers 503
			err = lease.Retry(time.Now().Add(10*time.Millisecond), queue.Attempt{Status: 503, ErrorClass: "http_503"})
		} else {
			err = lease.Ack(queue.Attempt{Status: 204})
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("delivered:", q.Stats(ctx).Webhooks[webhook.ID].Delivered)
	// Output:
	// attempt 1 on rung 0: {"event":"feedback.created"}
	// attempt 2 on rung 1: {"event":"feedback.created"}
	// delivered: 1
}
