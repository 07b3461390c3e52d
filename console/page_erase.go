package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/console/scope"
	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/relay"
)

// eraseCountTime bounds how long the page counts what would be erased.
const eraseCountTime = 5 * time.Second

// erasePage asks before feedback is erased: one, or all of one person.
type erasePage struct {
	ID, Project string // the feedback; empty if a person is chosen
	Back        string // address of its page
	// Member of metadata and its Value name the person.
	Member, Value string
	Sentence      string // what would be erased; empty if nothing is chosen yet
	Some          bool   // there is something to erase
}

// erasureOf returns what an address or a form selects; ok is false if it selects nothing.
func (p pages) erasureOf(r *http.Request, v url.Values) (what relay.Erasure, ok bool, err error) {
	id, value := v.Get("feedback"), strings.TrimSpace(v.Get("value"))
	switch {
	case id != "":
		what.Feedback, err = api.FindFeedback(r.Context(), p.queue, id, api.ProjectOf(v))
	case value != "":
		what.Filter = metadataFilter(memberOf(v), value)
	}
	return what, id != "" || value != "", err
}

// memberOf is the member of metadata that names a person. It is userId, as UserHero's
// documentation has it, unless another one is given.
func memberOf(v url.Values) string { return cmp.Or(strings.TrimSpace(v.Get("member")), "userId") }

// metadataFilter selects feedback in whose metadata a member has a value, as a text or as a
// number.
func metadataFilter(member, value string) string {
	member = "data.metadata[" + api.Quoted(member) + "]"
	filter := member + " == " + api.Quoted(value)
	if n, err := strconv.ParseFloat(value, 64); err == nil && !math.IsInf(n, 0) && !math.IsNaN(n) {
		filter += fmt.Sprintf(" || %s == %s", member, strconv.FormatFloat(n, 'e', -1, 64))
	}
	return filter
}

func (p pages) askErase(r *http.Request) (any, error) {
	if p.relay.ReadOnly() {
		return nil, scope.ErrReadOnly
	}
	v := r.URL.Query()
	what, chosen, err := p.erasureOf(r, v)
	if err != nil {
		return nil, err
	}
	page := erasePage{ID: what.Feedback.ID, Project: what.Feedback.Project, Member: memberOf(v), Value: strings.TrimSpace(v.Get("value"))}
	if page.ID != "" {
		page.Back = feedbackAt(what.Feedback)
	}
	if chosen {
		ctx, cancel := context.WithTimeout(r.Context(), eraseCountTime)
		defer cancel()
		what.DryRun = true
		sum, err := p.relay.Erase(ctx, what, api.UserOf(r))
		whole := !errors.Is(err, context.DeadlineExceeded)
		if err != nil && whole {
			return nil, err
		}
		page.Sentence, page.Some = words.WouldErase(sum, whole), sum.Feedbacks > 0 || !whole
	}
	return shown{name: "erase.html", screen: screen{Title: "Erase feedback", Area: "feedback", Page: page}}, nil
}

func (p pages) eraseFeedback(r *http.Request) (any, error) {
	what, chosen, err := p.erasureOf(r, r.PostForm)
	if err == nil && !chosen {
		err = api.Unprocessable("/value", errors.New("is required: it says whose feedback to erase"))
	}
	if err != nil {
		return nil, err
	}
	sum, err := p.relay.Erase(r.Context(), what, api.UserOf(r))
	if err != nil {
		return nil, err
	}
	return said(feedbackArea, words.Erased(sum)), nil
}
