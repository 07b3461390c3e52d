package api

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/userhero/relay/queue"
	"github.com/userhero/relay/relay/expression"
)

// The formats of an export.
const (
	FormatJSON = "json" // one feedback a line
	FormatCSV  = "csv"
)

// export streams feedback as it is now, newest first: what the times and the filter
// select. If it breaks off, the connection does too, so that no client takes a part for
// the whole.
func (s *server) export(w http.ResponseWriter, r *http.Request) {
	p := parameters{values: r.URL.Query()}
	format := p.oneOf("format", FormatJSON, FormatCSV)
	q := queue.EventQuery{ProjectID: p.text("project"), Since: p.time("since"), Until: p.time("until"), Limit: maxEvents}
	var filter *expression.Condition
	if source := p.text("filter"); source != "" {
		var err error
		if filter, err = expression.CompileCondition(source); err != nil {
			p.bad("filter", err.Error())
		}
	}
	if err := p.err(); err != nil {
		s.fail(w, r, err)
		return
	}
	buffered := bufio.NewWriterSize(w, 64<<10)
	var out exporter = lines{buffered}
	kind, name := "application/x-ndjson", "feedback.jsonl"
	if format == FormatCSV {
		out = &table{Writer: csv.NewWriter(buffered)}
		kind, name = "text/csv; charset=utf-8", "feedback.csv"
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodHead {
		return
	}
	err := out.begin()
	if err == nil {
		err = s.eachFeedback(r.Context(), q, filter, out.write)
	}
	if err == nil {
		err = errors.Join(out.end(), buffered.Flush())
	}
	if err != nil {
		if r.Context().Err() == nil {
			s.log.Error("exporting feedback", "error", err)
		}
		panic(http.ErrAbortHandler)
	}
}

// eachFeedback calls visit with the newest event of every feedback that was given in the
// times of a query and that the filter selects. Each is found once, by the oldest of its
// events that is left.
func (s *server) eachFeedback(ctx context.Context, q queue.EventQuery, filter *expression.Condition, visit func(queue.Event) error) error {
	return queue.EachEvent(ctx, s.queue.Events, q, func(e queue.Event) error {
		if e.Feedback.IsZero() {
			return nil
		}
		if !e.Replaces.IsZero() {
			_, err := s.queue.Event(ctx, e.Replaces)
			if !errors.Is(err, queue.ErrNotFound) {
				return err // an older one is left
			}
		}
		latest, err := s.queue.Latest(ctx, e.Feedback)
		if errors.Is(err, queue.ErrNotFound) || errors.Is(err, queue.ErrErased) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if holds, err := filter.Match(expression.NewDocument(latest.Body)); err != nil || !holds {
			return nil //nolint:nilerr // what cannot be judged is not selected
		}
		return visit(latest)
	})
}

// exporter writes an export in one format.
type exporter interface {
	begin() error
	write(e queue.Event) error
	end() error
}

// lines writes the data of each document on a line of its own.
type lines struct{ io.Writer }

func (lines) begin() error { return nil }
func (lines) end() error   { return nil }

func (l lines) write(e queue.Event) error {
	data, err := dataOf(e)
	if err == nil {
		_, err = l.Write(append(data, '\n'))
	}
	return err
}

// dataOf returns the data of an event's document, as it is there.
func dataOf(e queue.Event) (json.RawMessage, error) {
	var document struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(e.Body, &document); err != nil {
		return nil, fmt.Errorf("reading event %s: %w", e.ID, err)
	}
	return document.Data, nil
}

// columns are those of a table. A dot leads into an object. Metadata and what else a
// feedback has are JSON.
var columns = []string{
	"id", "projectId", "widgetId", "createdAt", "changedAt", "status", "category", "rating", "message", "screenshotUrl",
	"context.pageUrl", "context.referrer", "context.browser", "context.browserVersion", "context.os", "context.deviceType",
	"context.viewport.width", "context.viewport.height", "context.timezone", "context.locale", "context.country",
	"metadata", "other",
}

// table writes a feedback a row.
type table struct{ *csv.Writer }

func (t *table) begin() error { return t.Write(columns) }

func (t *table) end() error {
	t.Flush()
	return t.Error()
}

func (t *table) write(e queue.Event) error {
	data, err := dataOf(e)
	if err != nil {
		return err
	}
	all, err := membersByPath(data)
	if err != nil {
		return fmt.Errorf("reading event %s: %w", e.ID, err)
	}
	row := make([]string, len(columns))
	for i, column := range columns {
		switch column {
		case "changedAt":
			row[i] = moment(e.Created).Format(time.RFC3339)
		case "other":
			row[i] = inert(rest(all))
		default:
			row[i] = inert(cell(all[column]))
			delete(all, column)
		}
	}
	return t.Write(row)
}

// membersByPath returns the members of data, and those of its context and of the viewport
// there with their paths, such as context.viewport.width.
func membersByPath(data json.RawMessage) (all map[string]json.RawMessage, err error) {
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	for _, path := range []string{"context", "context.viewport"} {
		var inner map[string]json.RawMessage
		if json.Unmarshal(all[path], &inner) != nil {
			continue // it is absent
		}
		delete(all, path)
		for name, value := range inner {
			all[path+"."+name] = value
		}
	}
	return all, nil
}

// cell returns a text as it is, and all else as JSON; empty if it is absent.
func cell(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// rest returns the members that have no column, as JSON; empty if there are none.
func rest(all map[string]json.RawMessage) string {
	if len(all) == 0 {
		return ""
	}
	text, err := json.Marshal(all)
	if err != nil {
		return ""
	}
	return string(text)
}

// inert returns a cell that no spreadsheet takes for a formula: before what begins like
// one stands an apostrophe (OWASP, CSV Injection).
func inert(cell string) string {
	if strings.ContainsAny(firstOf(cell), "=+-@\t\r\n＝＋－＠") {
		return "'" + cell
	}
	return cell
}

// firstOf returns the first character of a text, or an empty text.
func firstOf(text string) string {
	for i := range text {
		if i > 0 {
			return text[:i]
		}
	}
	return text
}
