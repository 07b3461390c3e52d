package console

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// outcomeTime is for how long what a form did can be looked at.
	outcomeTime = time.Hour
	// repeatTime is within which a form that is sent twice, as by a double click,
	// does its work once.
	repeatTime = 10 * time.Second
	// maxOutcomes bounds what is kept; the oldest go first. Each holds at most a form
	// (64 KiB) or the answer to a test (16 KiB).
	maxOutcomes = 200
)

// outcome is what a form did, for the page that the browser is sent to: a reload
// of that page repeats nothing.
type outcome struct {
	Flash *flash
	// Status is that of the page; 0 is 200.
	Status int
	// Once: what is shown is gone after it has been looked at once.
	Once bool
	// Lost is said to whoever looks for it again.
	Lost string
	// Draft names the webhook that is being added; saving it ends all of its steps.
	Draft string
	// Of is what else the page shows: a *wizard, *testOutcome, *secretShown,
	// *settingsForm, *signature.Verdict or *event.Problem.
	Of any
}

// flash is one line about what was just done.
type flash struct {
	Kind string // good or bad
	Text string
}

func good(format string, args ...any) *flash { return &flash{"good", fmt.Sprintf(format, args...)} }

func bad(format string, args ...any) *flash { return &flash{"bad", fmt.Sprintf(format, args...)} }

// kept is an outcome with who may see it.
type kept struct {
	outcome
	user string
	at   time.Time
	seen bool
}

// sent is a form that was sent: its answer, once it has one.
type sent struct {
	at       time.Time
	answered chan struct{} // closed when location is set
	location string
}

// outcomes keeps what forms did in memory, for those who sent them. Nothing of it
// is in an address but a token that cannot be guessed.
type outcomes struct {
	mu    sync.Mutex // guards all below
	kept  map[string]*kept
	forms map[string]*sent // by user and the form's own token
}

// put keeps an outcome and returns its token.
func (o *outcomes) put(user string, out outcome) string {
	token := rand.Text()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.kept == nil {
		o.kept = make(map[string]*kept)
	}
	o.trim()
	o.kept[token] = &kept{outcome: out, user: user, at: time.Now()}
	return token
}

// trim drops what is old, and the oldest where there is too much; o.mu is held.
func (o *outcomes) trim() {
	maps.DeleteFunc(o.kept, func(_ string, k *kept) bool { return time.Since(k.at) > outcomeTime })
	if len(o.kept) < maxOutcomes {
		return
	}
	oldest := slices.MinFunc(slices.Collect(maps.Keys(o.kept)), func(a, b string) int { return o.kept[a].at.Compare(o.kept[b].at) })
	delete(o.kept, oldest)
}

// look returns what a token stands for; false if it stands for nothing, or for
// somebody else. What is shown once is replaced by what says so.
func (o *outcomes) look(user, token string) (outcome, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := o.kept[token]
	if k == nil || k.user != user || time.Since(k.at) > outcomeTime {
		return outcome{}, false
	}
	out := k.outcome
	if !out.Once {
		return out, true
	}
	if k.seen {
		return outcome{Flash: lost(out.Lost)}, true
	}
	k.outcome = outcome{Once: true, Lost: out.Lost} // the secret is not kept
	k.seen = true
	return out, true
}

func lost(text string) *flash {
	if text == "" {
		return nil
	}
	return &flash{"bad", text}
}

// forget drops the steps of a draft.
func (o *outcomes) forget(draft string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.kept, func(_ string, k *kept) bool { return k.Draft != "" && k.Draft == draft })
}

// once runs do for the first of several requests that carry the same form, and
// answers all of them with where it leads.
func (o *outcomes) once(ctx context.Context, user, form string, do func() string) (location string, err error) {
	if form == "" {
		return do(), nil
	}
	key := user + " " + form
	o.mu.Lock()
	if o.forms == nil {
		o.forms = make(map[string]*sent)
	}
	maps.DeleteFunc(o.forms, func(_ string, s *sent) bool { return s.location != "" && time.Since(s.at) > repeatTime })
	if s := o.forms[key]; s != nil {
		o.mu.Unlock()
		select {
		case <-s.answered:
			return s.location, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	s := &sent{at: time.Now(), answered: make(chan struct{})}
	o.forms[key] = s
	o.mu.Unlock()
	location = do()
	o.mu.Lock()
	s.location, s.at = location, time.Now()
	o.mu.Unlock()
	close(s.answered)
	return location, nil
}
