package jetstreamqueue

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/userhero/relay/queue"
)

// Relays send each other messages that are not stored. A message may be lost: messages only
// make the relays faster or spread lanes better.
//
//   - All relays receive the messages of locks. So a relay that waits for a lane knows the
//     lane's owner without asking the servers again and again.
//   - A relay that releases a lock sends a message.
//   - A relay that waits for lanes sends their list every two seconds. The owner of a lane
//     releases it if a relay that waits for it ranks higher: see rank.
//   - The owner of a lane sends the outcome of each attempt before it is stored: see outcomes.
//   - Registry.Tell sends messages of the relay itself.

const (
	// sayWanted is how often a relay sends the list of lanes that it waits for.
	sayWanted = 2 * time.Second
	// successorsTime is how long a released lock is reserved for its successor.
	successorsTime = time.Second
	// maxHeard is the most messages of Tell that wait for one listener.
	maxHeard = 1024
	// maxUnheard is the most messages of other relays that wait to be handled.
	maxUnheard = 1 << 14
	// nodeHeader names the sender of a message that its own relay ignores.
	nodeHeader = "Userhero-Node"
)

// peers holds what this relay knows about the others.
type peers struct {
	mu     sync.Mutex // guards everything below
	owners map[string]owner
	// waiting holds the lanes that this relay waits for, and the channels that wake them.
	waiting map[queue.WebhookID]chan struct{}
	heard   map[chan []byte]struct{}
}

// owner is the relay that refreshed a lock, or the successor for which it is reserved.
type owner struct {
	holder
	until time.Time // the lock is not free before
}

// startPeers begins to listen to the other relays.
func (q *Queue) startPeers() error {
	q.peers.owners = make(map[string]owner)
	q.peers.waiting = make(map[queue.WebhookID]chan struct{})
	q.peers.heard = make(map[chan []byte]struct{})
	unheard := make(chan *nats.Msg, maxUnheard)
	for _, subject := range []string{q.names.lock("*"), q.names.peers()} {
		if _, err := q.nc.ChanSubscribe(subject, unheard); err != nil {
			return err
		}
	}
	q.running.Go(func() { q.hearAll(unheard) })
	q.running.Go(q.sayWhatIsWanted)
	q.running.Go(q.sayOutcomes)
	return nil
}

// hearAll handles messages in the order in which they came. If the refresh of a lock were
// handled after its release, relays would take the lock for held until it could have expired.
func (q *Queue) hearAll(unheard <-chan *nats.Msg) {
	for {
		select {
		case m := <-unheard:
			if strings.HasPrefix(m.Subject, q.names.lock("")) {
				q.hearLock(m)
			} else {
				q.hearPeer(m)
			}
		case <-q.closed.Done():
			return
		}
	}
}

// hearLock notes which relay has a lock.
func (q *Queue) hearLock(m *nats.Msg) {
	var h holder
	if err := json.Unmarshal(m.Data, &h); err != nil || !h.Held {
		return // the sender asks for the lock, and may not get it
	}
	q.peers.mu.Lock()
	defer q.peers.mu.Unlock()
	q.peers.owners[strings.TrimPrefix(m.Subject, q.names.lock(""))] = owner{h, time.Now().Add(q.o.LockTTL)}
}

func (q *Queue) hearPeer(m *nats.Msg) {
	switch name, released := strings.CutPrefix(m.Subject, q.names.released("")); {
	case released:
		q.hearReleased(name, string(m.Data))
	case m.Subject == q.names.wanted():
		q.hearWanted(m.Data)
	case m.Header.Get(nodeHeader) == q.node: // this relay sent it
	case m.Subject == q.names.outcomes():
		q.hearOutcomes(m.Data)
	case m.Subject == q.names.told():
		q.peers.mu.Lock()
		defer q.peers.mu.Unlock()
		for c := range q.peers.heard {
			select {
			case c <- m.Data:
			default: // the listener is too slow
			}
		}
	}
}

// hearReleased wakes a lane that waits for the lock.
func (q *Queue) hearReleased(name, successor string) {
	q.peers.mu.Lock()
	defer q.peers.mu.Unlock()
	delete(q.peers.owners, name)
	if successor != "" && successor != q.node {
		q.peers.owners[name] = owner{holder{Node: successor}, time.Now().Add(successorsTime)}
		return
	}
	if w, ok := q.names.webhookOf(".x.lane", q.names.lock(name)); ok && q.peers.waiting[w] != nil {
		signal(q.peers.waiting[w])
	}
}

// wanted lists the lanes that a relay waits for.
type wanted struct {
	Node  string            `json:"node"`
	Lanes []queue.WebhookID `json:"lanes"`
}

func (q *Queue) sayWhatIsWanted() {
	q.every(sayWanted, func() {
		q.outcomes.forgetOld(q.serverNanos(time.Now().Add(-rememberOutcomes)))
		says := wanted{Node: q.node}
		q.peers.mu.Lock()
		for w := range q.peers.waiting {
			says.Lanes = append(says.Lanes, w)
		}
		q.peers.mu.Unlock()
		if len(says.Lanes) == 0 {
			return
		}
		if data, err := json.Marshal(says); err == nil {
			_ = q.nc.Publish(q.names.wanted(), data)
		}
	})
}

// hearWanted offers lanes of this relay to a relay that waits for them and ranks higher.
func (q *Queue) hearWanted(data []byte) {
	var w wanted
	if err := json.Unmarshal(data, &w); err != nil || w.Node == q.node {
		return
	}
	since := q.serverNanos(time.Now().Add(-sayAgainFor))
	for _, id := range w.Lanes {
		q.outcomes.sayAgain(id, since)
		if l := q.laneOf(id); l != nil && rank(w.Node, id) > rank(q.node, id) {
			select {
			case l.successor <- w.Node:
			default:
			}
		}
	}
}

// rank orders the relays that may own a lane, differently for each lane, so that each
// relay owns about as many lanes as the others (rendezvous hashing).
func rank(node string, w queue.WebhookID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node + "/" + number(w)))
	x := h.Sum64() // the last bytes hardly change the high bits, so mix the bits (Stafford's variant 13)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// waitFor notes that this relay waits for a lane. It returns a channel that receives a value
// when the lane's lock is released.
func (p *peers) waitFor(w queue.WebhookID) <-chan struct{} {
	freed := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[w] = freed
	return freed
}

func (p *peers) waitNoMore(w queue.WebhookID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, w)
}

// mayBeFree reports whether a lock may be free, so that asking the servers makes sense.
func (p *peers) mayBeFree(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !time.Now().Before(p.owners[name].until)
}

// leaveTo reserves a lock of this relay for its successor, for successorsTime.
func (p *peers) leaveTo(name, successor string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owners[name] = owner{holder{Node: successor}, time.Now().Add(successorsTime)}
}

// owner returns the relay that refreshed a lock within its TTL.
func (p *peers) owner(name string) (holder, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.owners[name]
	return o.holder, o.Held && time.Now().Before(o.until)
}

// Node implements queue.Registry.
func (q *Queue) Node() string { return q.node }

// Tell implements queue.Registry.
func (q *Queue) Tell(message []byte) {
	m := nats.NewMsg(q.names.told())
	m.Header.Set(nodeHeader, q.node)
	m.Data = message
	_ = q.nc.PublishMsg(m)
}

// Hear implements queue.Registry.
func (q *Queue) Hear(ctx context.Context, heard func(message []byte)) {
	c := make(chan []byte, maxHeard)
	q.peers.mu.Lock()
	q.peers.heard[c] = struct{}{}
	q.peers.mu.Unlock()
	defer func() {
		q.peers.mu.Lock()
		defer q.peers.mu.Unlock()
		delete(q.peers.heard, c)
	}()
	for {
		select {
		case m := <-c:
			heard(m)
		case <-ctx.Done():
			return
		case <-q.closed.Done():
			return
		}
	}
}
