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
	"github.com/userhero/relay/console/api"
	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/deliver"
)

func listenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "listen --to <url>",
		Short: "Forwards deliveries to a local port",
		Long: `
Forwards every new delivery to a URL, for example to a port of this machine that
the relay cannot reach, until you interrupt it. The body is exact; the headers and
signatures are those of the delivery's last attempt. A delivery without an attempt,
such as one to a disabled webhook, is forwarded without signatures.

A delivery counts as forwarded when it is answered, with any status. While nothing
answers at the URL, deliveries wait. A file remembers what was forwarded, so that
the same command continues where it stopped. What is delivered again later is not
forwarded again, unless you ask for it with --since.`,
		Example: `  caddy userhero listen --to http://localhost:3000/hooks/userhero --webhook crm`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newListener(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			defer context.AfterFunc(ctx, stop)() // a second signal ends the process at once
			return l.run(ctx)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("to", "", "The URL to forward to, such as http://localhost:3000/hooks")
	flags.String("webhook", "", "Only deliveries to this webhook; default: all")
	flags.String("since", "", "Begin with events accepted then, even if they were forwarded before: "+timeHelp)
	flags.String("state", "", "File that remembers what was forwarded; default: one in your cache folder for each address and webhook")
	flags.Duration("interval", time.Second, "How long to wait before asking for new deliveries again")
	completeFlag(cmd, "webhook", webhookNames)
	return cmd
}

const (
	// unsignedAfter is how long a delivery may wait for its first attempt, and so for
	// its signatures, before it is forwarded without them.
	unsignedAfter = 10 * time.Second
	// forwardTime is how long the receiver may take to answer.
	forwardTime = time.Minute
)

// listener forwards deliveries. It runs in one goroutine.
type listener struct {
	relay    *client
	to       string
	webhook  string // empty: all
	interval time.Duration
	forwards *http.Client
	cursor   *listenCursor
	out, err io.Writer

	firstSeen map[string]time.Time // of deliveries without an attempt, by id
	listed    bool                 // deliveries have been listed at least once
	problem   string               // the last problem that was printed
}

func newListener(cmd *cobra.Command) (*listener, error) {
	to := flagText(cmd, "to")
	if u, err := url.Parse(to); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--to %q is not a URL to forward to; write for example http://localhost:3000/hooks", to)
	}
	interval, err := cmd.Flags().GetDuration("interval")
	if err != nil || interval <= 0 {
		return nil, errors.New("--interval must be a duration above zero, such as 2s")
	}
	since, err := flagTime(cmd, "since")
	if err != nil {
		return nil, err
	}
	c, err := dial(cmd)
	if err != nil {
		return nil, err
	}
	webhook := flagText(cmd, "webhook")
	cursor, err := openListenCursor(flagText(cmd, "state"), c.address, webhook, since)
	if err != nil {
		return nil, err
	}
	return &listener{
		relay:    c,
		to:       to,
		webhook:  webhook,
		interval: interval,
		forwards: &http.Client{
			Timeout:       forwardTime,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		cursor:    cursor,
		out:       cmd.OutOrStdout(),
		err:       cmd.ErrOrStderr(),
		firstSeen: make(map[string]time.Time),
	}, nil
}

// run forwards until the context ends, which is not an error. If the first list of
// deliveries fails, it returns the error; later it waits until a list succeeds.
func (l *listener) run(ctx context.Context) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(l.interval)
	defer timer.Stop()
	for {
		err := l.forwardNew(ctx)
		switch problem := (*event.Problem)(nil); {
		case ctx.Err() != nil:
			_, _ = fmt.Fprintln(l.err, "Stopped. Run the same command to continue from here.")
			return nil
		case err == nil:
			l.problem = ""
		case !l.listed, errors.Is(err, errCursor):
			return err
		case errors.As(err, &problem) && problem.Status < http.StatusInternalServerError:
			return err // such as a webhook that was deleted
		default:
			l.wait(err)
		}
		timer.Reset(l.interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// begin sets a new cursor to the present time of the relay's clock.
func (l *listener) begin(ctx context.Context) error {
	what := "deliveries that were not forwarded yet"
	if l.cursor.Since.IsZero() {
		s, err := decode[api.Status](l.relay.get(ctx, "/status", nil))
		if err != nil {
			return err
		}
		l.cursor.Since = s.StartedAt.Add(time.Duration(s.UptimeSeconds * float64(time.Second))).Truncate(time.Second)
		what = "new deliveries"
	}
	if err := l.cursor.save(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(l.err, "Forwarding %s to %s. Stop with Ctrl-C.\n", what, l.to)
	return err
}

// wait prints why nothing is forwarded, once until it changes.
func (l *listener) wait(err error) {
	if text := cell(err.Error()); text != l.problem {
		l.problem = text
		_, _ = fmt.Fprintln(l.err, "Waiting: "+text)
	}
}

// forwardNew forwards, oldest first, the deliveries that have not been forwarded.
// It stops between two deliveries when the context ends.
func (l *listener) forwardNew(ctx context.Context) error {
	deliveries, err := l.list(ctx)
	if err != nil {
		return err
	}
	l.listed = true
	oldest := time.Time{} // of the deliveries that are left
	var blocked error
	for _, d := range deliveries {
		if l.cursor.has(d) {
			continue
		}
		err := ctx.Err()
		if err == nil && blocked == nil && l.ready(d) {
			if err = l.forward(ctx, d); err == nil {
				delete(l.firstSeen, d.ID)
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

// list returns all deliveries since the cursor, oldest first and without their
// attempts: there may be many.
func (l *listener) list(ctx context.Context) (all []api.Delivery, err error) {
	query := url.Values{"since": {timestamp(l.cursor.Since)}, "limit": {"200"}}
	if l.webhook != "" {
		query.Set("webhook", l.webhook)
	}
	for {
		page, err := decode[api.Page[api.Delivery]](l.relay.get(ctx, "/deliveries", query))
		if err != nil {
			return nil, err
		}
		for _, d := range page.Items {
			if d.Attempts = nil; !d.CreatedAt.Before(l.cursor.Since) {
				all = append(all, d)
			}
		}
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	slices.SortFunc(all, func(a, b api.Delivery) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// ready reports whether a delivery can be forwarded: it has an attempt and so
// signatures, or it will not get one soon.
func (l *listener) ready(d api.Delivery) bool {
	if d.AttemptsMade > 0 || d.State != api.StatePending {
		return true
	}
	first, ok := l.firstSeen[d.ID]
	if !ok {
		l.firstSeen[d.ID] = time.Now()
		return false
	}
	return time.Since(first) >= unsignedAfter
}

// forward posts a delivery and prints a line. It returns an error if nothing
// answered. A delivery that can never be forwarded is skipped. The end of the
// context does not interrupt the request.
func (l *listener) forward(ctx context.Context, d api.Delivery) error {
	e, err := decode[api.Event](l.relay.get(ctx, "/events/"+url.PathEscape(d.EventID), nil))
	if isNotFound(err) {
		l.print("%s  %s  expired before it was forwarded\n", timestamp(d.CreatedAt), cell(d.ID))
		return nil
	}
	if err != nil {
		return err
	}
	body, err := documentOf(e)
	if err != nil { // it will never be readable, so do not let others wait for it
		l.print("%s  %s  not forwarded: %v\n", timestamp(d.CreatedAt), cell(d.ID), err)
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
	l.problem = ""
	l.print("%s  %s  %s  %s  %d %s%s\n", timestamp(e.CreatedAt), cell(e.Type), cell(e.FeedbackID), cell(d.Webhook),
		response.StatusCode, http.StatusText(response.StatusCode), note)
	return nil
}

// print writes a line. An error is ignored: the delivery has been forwarded.
func (l *listener) print(format string, args ...any) { _, _ = fmt.Fprintf(l.out, format, args...) }

// forwardedHeader returns the headers of the delivery's last attempt without those
// of its connection and without those that the API hides because they may be
// secret.
func forwardedHeader(e api.Event, d api.Delivery) http.Header {
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
			if value != deliver.RedactedValue {
				h.Set(name, value)
			}
		}
	}
	for _, name := range []string{"Accept-Encoding", "Connection", "Content-Length", "Host", "Transfer-Encoding"} {
		h.Del(name)
	}
	return h
}
