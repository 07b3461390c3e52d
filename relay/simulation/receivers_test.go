package simulation

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// mood is how a receiver behaves.
type mood int

const (
	well         mood = iota // 2xx at once
	slow                     // 2xx after a while, in time
	flaky                    // half of the answers are anything
	erring                   // 4xx, 5xx, redirects, upgrades
	throttling               // 429 and 503, most with Retry-After
	lying                    // 2xx that is late, broken off or never ends
	breaking                 // closes, or answers what is no HTTP
	hanging                  // never answers
	refusing                 // no connection
	unresolvable             // no address
	unreachable              // connecting never ends
	gone                     // 410
	moods
)

func (m mood) String() string {
	return [...]string{"well", "slow", "flaky", "erring", "throttling", "lying", "breaking", "hanging", "refusing",
		"unresolvable", "unreachable", "gone"}[m]
}

// receiver is the far end of one webhook.
type receiver struct {
	w       *world
	webhook *webhook

	mu      sync.Mutex // guards everything below
	feeling mood
	secret  string // the one it knows
}

func (r *receiver) mood() mood {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.feeling
}

func (r *receiver) feel(m mood) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.feeling = m
}

// learn tells the receiver another secret; it forgets the one before.
func (r *receiver) learn(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secret = secret
}

// answer is what a receiver does with one request.
type answer struct {
	after  time.Duration // before it says anything
	status int           // 0: nothing, it waits until the other side gives up
	header string        // lines, each with its end
	body   string
	length int  // announced, where it is not that of the body; -1 is that
	close  bool // afterwards
	raw    string
	// ok says that by the contract the attempt has succeeded.
	ok    bool
	asked time.Duration // by Retry-After, where that counts
}

// choose decides, by the seed, the delivery and how often it came, what to
// answer: not by the order in which requests happen to come.
func (r *receiver) choose(m mood, id string, visit int, timeout time.Duration) answer {
	h := sha256.Sum256(fmt.Appendf(nil, "%d %s %s %d", r.w.o.seed, r.webhook.host, id[len(id)-10:], visit))
	rnd := rand.New(rand.NewPCG(uint64(h[0])<<8|uint64(h[1]), uint64(h[2])<<8|uint64(h[3])))
	pick := func(ns ...int) int { return ns[rnd.IntN(len(ns))] }
	within := func(d time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(d))) + 1 }
	fine := answer{status: pick(200, 200, 201, 202, 204, 299), ok: true, length: -1}
	if fine.status != 204 && rnd.IntN(2) == 0 {
		fine.body = strings.Repeat("said ", rnd.IntN(30))
	}
	if m == flaky {
		if m = mood(rnd.IntN(int(hanging))); rnd.IntN(2) == 0 {
			m = well
		}
	}
	switch m {
	case slow:
		fine.after = within(timeout * 9 / 10)
		return fine
	case erring:
		status := pick(400, 401, 403, 404, 422, 500, 502, 504, 301, 302, 307, 308, 101, 304)
		return answer{after: within(50 * time.Millisecond), status: status, header: "Location: http://" + r.webhook.host + "/elsewhere\r\n", length: -1, close: status == 101}
	case throttling:
		a := answer{status: pick(429, 503, 500), length: -1}
		hour := min(time.Hour, r.w.o.longest)
		switch rnd.IntN(5) {
		case 0:
			seconds := rnd.IntN(int(hour/time.Second) / 6)
			a.header, a.asked = fmt.Sprintf("Retry-After: %d\r\n", seconds), time.Duration(seconds)*time.Second
		case 1: // a date has whole seconds: it is before the time that was meant
			at := time.Now().Add(within(hour)).Truncate(time.Second)
			a.header, a.asked = "Retry-After: "+at.UTC().Format(http.TimeFormat)+"\r\n", max(time.Until(at), 0)
		case 2:
			if hour == time.Hour {
				a.header, a.asked = "Retry-After: 99999999999999999999\r\n", 24*time.Hour
			}
		case 3:
			a.header = "Retry-After: soon\r\n"
		}
		if a.status == 500 {
			a.asked = 0
		}
		return a
	case lying:
		switch rnd.IntN(5) {
		case 4: // the status stands, whatever is wrong behind it
			wrong := []string{"Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", "X-Long: a\r\n b\r\n", "nothing\r\n"}
			fine.status, fine.body, fine.header = 200, "fine", wrong[rnd.IntN(len(wrong))]
		case 0: // too late
			fine.after, fine.ok = timeout+within(timeout), false
		case 1: // breaks off in its body: the status stands
			fine.status, fine.body, fine.length, fine.close = 200, "half of", 4000, true
		case 2: // breaks off in its head
			return answer{raw: "HTTP/1.1 200 OK\r\nContent-Le", close: true}
		case 3: // interim answers for ever
			return answer{raw: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 3)}
		}
		return fine
	case breaking:
		a := answer{after: within(time.Second), close: true}
		if rnd.IntN(2) == 0 {
			a.raw = "SSH-2.0-OpenSSH_9.2\r\n\r\n"
		}
		return a
	case hanging:
		return answer{}
	case gone:
		return answer{status: http.StatusGone, length: -1}
	}
	return fine
}

// serve answers the requests of one connection.
func (r *receiver) serve(c net.Conn) {
	from := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(from)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if !r.answer(c, from, req, body) {
			return
		}
	}
}

// answer deals with one request and reports whether the connection goes on.
func (r *receiver) answer(c net.Conn, from io.Reader, req *http.Request, body []byte) bool {
	v := r.w.ledger.arrive(r.webhook, req, body)
	if v == nil {
		return false
	}
	r.mu.Lock()
	m, secret := r.feeling, r.secret
	r.mu.Unlock()
	a := r.choose(m, v.lease.id.String(), v.n, v.lease.timeout())
	if fits, err := signed(req, body, secret); err != nil {
		r.w.ledger.fault("%s: %v", v.lease.id, err)
	} else if v.fits = fits; !fits && a.ok {
		a = answer{status: []int{400, 401, 403, 404, 422}[v.n%5], length: -1}
		v.unsigned = true
	}
	if a.after > 0 && !r.w.pause(a.after) {
		return false
	}
	if a.status == 0 {
		if a.raw != "" {
			if a.close {
				r.w.ledger.answered(v, a)
			}
			_, _ = io.WriteString(c, a.raw)
		}
		if a.close {
			r.w.ledger.answered(v, a)
			return false
		}
		_, _ = io.Copy(io.Discard, from) // until the other side gives up
		return false
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\n%s", a.status, http.StatusText(a.status), a.header)
	if a.length < 0 {
		a.length = len(a.body)
	}
	if a.status != 204 && a.status != 304 && a.status != 101 {
		head += "Content-Length: " + strconv.Itoa(a.length) + "\r\n"
	}
	// Before the last byte: whoever has it may act on it at once.
	r.w.ledger.answered(v, a)
	_, err := io.WriteString(c, head+"\r\n"+a.body)
	return err == nil && !a.close
}

// signed reports whether X-UserHero-Signature fits the secret. That the standard
// signature fits, and that everything documented is there, is an error if not.
func signed(req *http.Request, body []byte, secret string) (fits bool, err error) {
	get := func(name string) string { return req.Header.Get(name) }
	if secret == "" {
		if get("X-UserHero-Signature") != "" || get("webhook-signature") != "" {
			return false, fmt.Errorf("a webhook without a secret gets a signature")
		}
		return true, nil
	}
	sum := func(key []byte, parts ...string) []byte {
		h := hmac.New(sha256.New, key)
		for _, p := range parts {
			h.Write([]byte(p))
		}
		return h.Sum(nil)
	}
	key := []byte(secret)
	if encoded, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return false, err
		}
	}
	want := "v1," + base64.StdEncoding.EncodeToString(sum(key, get("webhook-id"), ".", get("webhook-timestamp"), ".", string(body)))
	if !slices.Contains(strings.Fields(get("webhook-signature")), want) {
		return false, fmt.Errorf("the standard signature %q does not fit the secret that the receiver knows", get("webhook-signature"))
	}
	return get("X-UserHero-Signature") == "sha256="+hex.EncodeToString(sum([]byte(secret), string(body))), nil
}
