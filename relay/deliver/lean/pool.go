package lean

import (
	"sync"
	"time"
)

// maxIdle bounds the idle connections of all hosts together.
const maxIdle = 4096

// pool holds the idle connections. They have no goroutine and no timer of their own:
// one timer runs while any connection is idle. A connection that the peer closed is
// noticed when it is taken or swept.
type pool struct {
	perHost int

	mu    sync.Mutex      // guards everything below
	hosts map[key][]*conn // the last one is used next
	count int
	timer *time.Timer // nil if no connection is idle
}

func newPool(perHost int) *pool { return &pool{perHost: perHost, hosts: make(map[key][]*conn)} }

// take returns a usable connection, with the deadline set, and how long it was idle. It
// returns nil if there is none.
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

// put adds a connection, unless it must not be used again or the pool is full. It
// reports whether it did.
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

// sweep closes connections that were idle long enough or were closed by the peer. It
// schedules itself for the next one that will be due.
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

// close closes all idle connections.
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
