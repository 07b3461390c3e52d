package lean

import (
	"sync"
	"time"
)

// maxIdle bounds the connections that wait, over all hosts.
const maxIdle = 4096

// pool holds the connections that wait for another request. They have neither a
// goroutine nor a timer each: one timer for all runs while any waits, and
// whether the other side has closed one is seen when it is taken, or swept.
type pool struct {
	perHost int

	mu    sync.Mutex      // guards everything below
	hosts map[key][]*conn // the one that came last serves next
	count int
	timer *time.Timer // nil while none waits
}

func newPool(perHost int) *pool { return &pool{perHost: perHost, hosts: make(map[key][]*conn)} }

// take returns a connection that can serve, until the deadline, and how long it
// has waited; or nil.
func (p *pool) take(k key, now, deadline time.Time) (*conn, time.Duration) {
	for {
		c := p.pop(k)
		if c == nil {
			return nil, 0
		}
		if now.Before(c.until) && c.usable(deadline) {
			return c, now.Sub(c.since)
		}
		_ = c.net.Close()
	}
}

func (p *pool) pop(k key) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := p.hosts[k]
	last := len(waiting) - 1
	if last < 0 {
		return nil
	}
	c := waiting[last]
	waiting[last] = nil
	p.hosts[k] = waiting[:last]
	p.count--
	return c
}

// put lets a connection wait, unless it may not or there are enough.
func (p *pool) put(c *conn, wait time.Duration) bool {
	if wait <= 0 || c.socket == nil || c.r.Buffered() > 0 {
		return false
	}
	c.used = true
	c.since = time.Now()
	c.until = c.since.Add(wait)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.hosts[c.key]) >= p.perHost || p.count >= maxIdle {
		return false
	}
	p.hosts[c.key] = append(p.hosts[c.key], c)
	p.count++
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.sweep)
	}
	return true
}

// sweep closes what has waited long enough or was closed by the other side, and
// comes again when the next has.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var next time.Time
	for k, waiting := range p.hosts {
		kept := waiting[:0]
		for _, c := range waiting {
			if !now.Before(c.until) || !c.usable(time.Time{}) {
				_ = c.net.Close()
				p.count--
				continue
			}
			if kept = append(kept, c); next.IsZero() || c.until.Before(next) {
				next = c.until
			}
		}
		clear(waiting[len(kept):])
		if p.hosts[k] = kept; len(kept) == 0 {
			delete(p.hosts, k)
		}
	}
	if p.timer = nil; !next.IsZero() {
		p.timer = time.AfterFunc(next.Sub(now), p.sweep)
	}
}

// close closes all that wait.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, waiting := range p.hosts {
		for _, c := range waiting {
			_ = c.net.Close()
		}
	}
	clear(p.hosts)
	if p.count = 0; p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}
