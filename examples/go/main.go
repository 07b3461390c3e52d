// Command go is a webhook receiver. It needs the standard library and one package
// of the relay, which checks signatures and imports nothing else:
//
//	USERHERO_WEBHOOK_SECRET=demo-secret go run ./examples/go -listen 127.0.0.1:3000
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/userhero/relay/relay/signature"
)

// event is what arrives; more members may come, and are ignored.
type event struct {
	Event string `json:"event"`
	Data  struct {
		ID      string `json:"id"`
		Message string `json:"message"`
	} `json:"data"`
}

func receiver(secret string) http.HandlerFunc {
	// Deliveries come at least once: the same id again is the same event. A
	// real receiver keeps the ids where it keeps the feedback.
	var seen sync.Map
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 128<<10))
		if err != nil {
			http.Error(w, "body too large or cut off", http.StatusBadRequest)
			return
		}
		if err := signature.Verify(secret, r.Header, body); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		var e event
		if err := json.Unmarshal(body, &e); err != nil {
			http.Error(w, "not an event", http.StatusBadRequest)
			return
		}
		if _, again := seen.LoadOrStore(r.Header.Get("X-UserHero-Delivery"), true); !again {
			log.Printf("received %s %s: %q", e.Event, e.Data.ID, e.Data.Message)
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:3000", "address to listen on")
	flag.Parse()
	secret := os.Getenv("USERHERO_WEBHOOK_SECRET")
	if secret == "" {
		log.Fatal("set USERHERO_WEBHOOK_SECRET to the secret of your webhook")
	}
	mux := http.NewServeMux()
	mux.Handle("POST /webhook/userhero", receiver(secret))
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Printf("listening on http://%s/webhook/userhero", *listen)
	log.Fatal(server.ListenAndServe())
}
