package intake

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
)

func TestUpdatesAtOnceLoseNoChange(t *testing.T) {
	s := newSite(t)
	s.handle("/feedback", Config{Token: fixed("token")})
	id := s.post(`{"message":"hi"}`).json(t)["id"].(string)
	const clients = 32
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			a, err := request(http.MethodPatch, "http://"+s.address+"/feedback/"+id, fmt.Sprintf(`{"metadata":{"m%d":%d}}`, i, i),
				"Content-Type", "application/json", "Authorization", "Bearer token")
			if err != nil || a.Status != http.StatusAccepted {
				t.Errorf("%v %d %s", err, a.Status, a.Body)
			}
		})
	}
	all.Wait()
	most, seen := 0, make(map[string]bool)
	for _, arrived := range s.await(clients + 1) {
		doc := arrived.document(t)
		metadata, _ := doc.Data["metadata"].(map[string]any)
		most = max(most, len(metadata))
		if state := fmt.Sprint(metadata); seen[state] {
			t.Errorf("the state %s was sent twice", state)
		} else {
			seen[state] = true
		}
	}
	if most != clients {
		t.Errorf("the fullest state holds %d of %d changes", most, clients)
	}
}
