package console

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/userhero/relay/console/words"
)

const (
	// outcomeTime is how long the outcome of a form can be shown.
	outcomeTime = time.Hour
	// repeatTime is how long the same form does its work only once, for example after a
	// double click.
	repeatTime = 10 * time.Second
	// maxOutcomes bounds the outcomes in memory; the oldest go first. Each holds at most
	// a form (64 KiB) or the answer to a test (16 KiB).
	maxOutcomes = 200
)

// outcome is what a form did. The browser is redirected to a page that shows it, so
// that a reload does not send the form again.
type outcome struct {
	Flash *words.Flash
	// Status is the status of the page; 0 is 200.
	Status int
	// Once: it can be shown only once.
	Once bool
	// Lost is shown instead the next time.
	Lost string
	// Draft identifies the webhook that is being added. The outcomes of all its steps
	// are deleted when it is saved.
	Draft string
	// Of is what the page shows besides: a *wizard, *testOutcome, *secretShown,
	// *settingsForm, *signature.Verdict or *event.Problem.
	Of any
}

// kept is an outcome and the user who may see it.
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

// outcomes keeps the outcomes of forms in memory, for the users who sent them. An
// address holds only a random token.
type outcomes struct {
	mu    sync.Mutex // guards the fields below
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

// trim deletes old outcomes, and the oldest one if there are too many. The caller
// holds o.mu.
func (o *outcomes) trim() {
	maps.DeleteFunc(o.kept, func(_ string, k *kept) bool { return time.Since(k.at) > outcomeTime })
	if len(o.kept) < maxOutcomes {
		return
	}
	oldest := slices.MinFunc(slices.Collect(maps.Keys(o.kept)), func(a, b string) int { return o.kept[a].at.Compare(o.kept[b].at) })
	delete(o.kept, oldest)
}

// look returns the outcome of a token; false if there is none for this user. An
// outcome that can be shown only once is deleted.
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

func lost(text string) *words.Flash {
	if text == "" {
		return nil
	}
	return &words.Flash{Kind: "bad", Text: text}
}

// forget deletes the outcomes of a draft.
func (o *outcomes) forget(draft string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.kept, func(_ string, k *kept) bool { return k.Draft != "" && k.Draft == draft })
}

// once runs do for the first of several requests with the same form, and returns the
// location that it leads to for all of them.
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
