package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/caddymodule/version"
	"github.com/userhero/relay/event"
)

func listenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "listen --to <url>",
		Short: "Forwards deliveries to a local port",
		Long: `
Forwards every new delivery to a URL, such as a port of this machine that the
relay cannot reach, until it is interrupted: the exact body, with the headers and
signatures of the delivery's last attempt. A delivery that gets no attempt, such
as one to a disabled webhook, is forwarded without signatures.

Each delivery is forwarded once it is answered, with whatever status; while
nothing answers at the URL, all wait. What was forwarded is kept in a file, so the
same command goes on where it was interrupted. What is delivered again later is
not forwarded again, unless --since asks for it.`,
		Example: `  caddy userhero listen --to http://localhost:3000/hooks/userhero --webhook crm`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newListener(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			defer context.AfterFunc(ctx, stop)() // a second signal does not wait for what is under way
			return l.run(ctx)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("to", "", "The URL to forward to, such as http://localhost:3000/hooks")
	flags.String("webhook", "", "Only deliveries to this webhook; default: all")
	flags.String("since", "", "Begin with events accepted then, forwarded before or not: "+timeHelp)
	flags.String("state", "", "The file that remembers what was forwarded; default: one in your cache folder for each address and webhook")
	flags.Duration("interval", time.Second, "How long to wait between two looks")
	completeFlag(cmd, "webhook", webhookFlag)
	return cmd
}

const (
	// unsignedAfter is how long a delivery is left to get its first attempt, and
	// with it signatures, before it is forwarded without.
	unsignedAfter = 10 * time.Second
	// forwardTime is how long the receiver may take.
	forwardTime = time.Minute
)

// listener forwards deliveries. It runs in one goroutine.
type listener struct {
	admin    *adminClient
	to       string
	webhook  string // empty is all
	interval time.Duration
	forwards *http.Client
	cursor   *listenCursor
	out, err io.Writer

	seen    map[string]time.Time // when a delivery without attempts was seen first
	listed  bool                 // the deliveries could be listed once
	trouble string               // what was last said about what is in the way
}

func newListener(cmd *cobra.Command) (*listener, error) {
	to := flagText(cmd, "to")
	if u, err := url.Parse(to); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--to %q is no URL to forward to; write for example http://localhost:3000/hooks", to)
	}
	interval, err := cmd.Flags().GetDuration("interval")
	if err != nil || interval <= 0 {
		return nil, errors.New("--interval has to be a duration above zero, such as 2s")
	}
	since, err := flagTime(cmd, "since")
	if err != nil {
		return nil, err
	}
	admin, err := dial(cmd)
	if err != nil {
		return nil, err
	}
	webhook := flagText(cmd, "webhook")
	cursor, err := openListenCursor(flagText(cmd, "state"), admin.address, webhook, since)
	if err != nil {
		return nil, err
	}
	return &listener{
		admin:    admin,
		to:       to,
		webhook:  webhook,
		interval: interval,
		forwards: &http.Client{
			Timeout:       forwardTime,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		cursor: cursor,
		out:    cmd.OutOrStdout(),
		err:    cmd.ErrOrStderr(),
		seen:   make(map[string]time.Time),
	}, nil
}

// run forwards until the context ends, which is no error. Where the deliveries
// cannot be listed even once, it ends; later it waits until they can.
func (l *listener) run(ctx context.Context) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(l.interval)
	defer timer.Stop()
	for {
		err := l.look(ctx)
		switch problem := (*event.Problem)(nil); {
		case ctx.Err() != nil:
			_, _ = fmt.Fprintln(l.err, "Stopped. The same command goes on from here.")
			return nil
		case err == nil:
			l.trouble = ""
		case !l.listed, errors.Is(err, errCursor):
			return err
		case errors.As(err, &problem) && problem.Status < http.StatusInternalServerError:
			return err // such as a webhook that was deleted
		default:
			l.say(err)
		}
		timer.Reset(l.interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// begin has a new cursor start now, by the relay's clock.
func (l *listener) begin(ctx context.Context) error {
	from := "what has not been forwarded yet"
	if l.cursor.Since.IsZero() {
		answer, err := l.admin.get(ctx, "/status", nil)
		if err != nil {
			return err
		}
		s, err := readAnswer[struct {
			StartedAt     time.Time `json:"started_at"`
			UptimeSeconds float64   `json:"uptime_seconds"`
		}](answer)
		if err != nil {
			return err
		}
		l.cursor.Since = s.StartedAt.Add(time.Duration(s.UptimeSeconds * float64(time.Second))).Truncate(time.Second)
		from = "what is new"
	}
	if err := l.cursor.save(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(l.err, "Forwarding %s to %s; stop with Ctrl-C.\n", from, l.to)
	return err
}

// say tells what is in the way, once until it changes.
func (l *listener) say(err error) {
	if text := cell(err.Error()); text != l.trouble {
		l.trouble = text
		_, _ = fmt.Fprintln(l.err, "Waiting: "+text)
	}
}

// look forwards, oldest first, what is there and has not been forwarded. It
// stops between two deliveries when the context ends.
func (l *listener) look(ctx context.Context) error {
	deliveries, err := l.list(ctx)
	if err != nil {
		return err
	}
	l.listed = true
	oldest := time.Time{} // of what is left for another look
	var blocked error
	for _, d := range deliveries {
		if l.cursor.has(d) {
			continue
		}
		err := ctx.Err()
		if err == nil && blocked == nil && l.ready(d) {
			if err = l.forward(ctx, d); err == nil {
				delete(l.seen, d.ID)
				if err := l.cursor.add(d); err != nil {
					return err
				}
				continue
			}
			blocked = err
		}
		if oldest.IsZero() || d.CreatedAt.Before(oldest) {
			oldest = d.CreatedAt
		}
	}
	if oldest.IsZero() && len(deliveries) > 0 {
		oldest = deliveries[len(deliveries)-1].CreatedAt
	}
	if err := l.cursor.advance(oldest); err != nil {
		return err
	}
	return blocked
}

// list is everything from the cursor on, oldest first. Only what is needed of
// each delivery is kept: there may be many.
func (l *listener) list(ctx context.Context) (all []listedDelivery, err error) {
	query := url.Values{"since": {stamp(l.cursor.Since)}, "limit": {"200"}}
	if l.webhook != "" {
		query.Set("webhook", l.webhook)
	}
	for {
		answer, err := l.admin.get(ctx, "/deliveries", query)
		if err != nil {
			return nil, err
		}
		page, err := readAnswer[listAnswer[listedDelivery]](answer)
		if err != nil {
			return nil, err
		}
		for _, d := range page.Items {
			if !d.CreatedAt.Before(l.cursor.Since) {
				all = append(all, d)
			}
		}
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	slices.SortFunc(all, func(a, b listedDelivery) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// listedDelivery is what a look needs to know of a delivery.
type listedDelivery struct {
	ID           string    `json:"id"`
	EventID      string    `json:"event_id"`
	Webhook      string    `json:"webhook"`
	State        string    `json:"state"`
	AttemptsMade int       `json:"attempts_made"`
	CreatedAt    time.Time `json:"created_at"`
}

// ready tells whether a delivery can be forwarded: it has been attempted, so
// there are signatures, or it will not be soon.
func (l *listener) ready(d listedDelivery) bool {
	if d.AttemptsMade > 0 || d.State != "pending" {
		return true
	}
	first, ok := l.seen[d.ID]
	if !ok {
		l.seen[d.ID] = time.Now()
		return false
	}
	return time.Since(first) >= unsignedAfter
}

// forward posts a delivery and prints a line. An error means that nobody has
// answered; a delivery that cannot be forwarded at all is left out. Once begun, it is not interrupted.
func (l *listener) forward(ctx context.Context, d listedDelivery) error {
	answer, err := l.admin.get(ctx, "/events/"+url.PathEscape(d.EventID), nil)
	if problem := (*event.Problem)(nil); errors.As(err, &problem) && problem.Status == http.StatusNotFound {
		l.print("%s  %s  expired before it was forwarded\n", stamp(d.CreatedAt), cell(d.ID))
		return nil
	}
	if err != nil {
		return err
	}
	e, err := readAnswer[eventAnswer](answer)
	if err != nil {
		return err
	}
	body, err := e.document()
	if err != nil { // it will not become readable: those after it must not wait for it
		l.print("%s  %s  not forwarded: %v\n", stamp(d.CreatedAt), cell(d.ID), err)
		return nil
	}
	header, note := forwardedHeader(e, d), ""
	if header.Get("webhook-signature") == "" {
		note = " (unsigned)"
	}
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, l.to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header = header
	response, err := l.forwards.Do(request)
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("nothing answers at %s (%w)", l.to, err)
	}
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // so that the connection can be used again
	_ = response.Body.Close()
	l.trouble = ""
	l.print("%s  %s  %s  %s  %d %s%s\n", stamp(e.CreatedAt), cell(e.Type), cell(e.FeedbackID), cell(d.Webhook),
		response.StatusCode, http.StatusText(response.StatusCode), note)
	return nil
}

// print writes a line. Where it cannot be written, the delivery counts as
// forwarded all the same.
func (l *listener) print(format string, args ...any) { _, _ = fmt.Fprintf(l.out, format, args...) }

// forwardedHeader are the headers of the delivery's last attempt, without
// those that belong to its connection. Those that the relay keeps to itself,
// because they may be secret, are missing.
func forwardedHeader(e eventAnswer, d listedDelivery) http.Header {
	h := make(http.Header)
	h.Set("Content-Type", "application/json")
	h.Set("X-UserHero-Event", e.Type)
	h.Set("X-UserHero-Delivery", d.ID)
	h.Set("webhook-id", d.ID)
	h.Set("User-Agent", "UserHero-Relay/"+version.String())
	for _, full := range e.Deliveries {
		if full.ID != d.ID || len(full.Attempts) == 0 {
			continue
		}
		for name, value := range full.Attempts[len(full.Attempts)-1].RequestHeaders {
			if value != "[redacted]" {
				h.Set(name, value)
			}
		}
	}
	for _, name := range []string{"Accept-Encoding", "Connection", "Content-Length", "Host", "Transfer-Encoding"} {
		h.Del(name)
	}
	return h
}
