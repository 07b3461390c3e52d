package command

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// table aligns rows for people.
type table struct{ w *tabwriter.Writer }

// newTable begins a table; without columns it has no header.
func newTable(out io.Writer, columns ...string) table {
	t := table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	if len(columns) > 0 {
		t.row(columns...)
	}
	return t
}

// row adds cells; an empty one is shown as "-". Errors show at the end.
func (t table) row(cells ...string) {
	shown := make([]string, len(cells))
	for i, c := range cells {
		if shown[i] = cell(c); shown[i] == "" {
			shown[i] = "-"
		}
	}
	_, _ = fmt.Fprintln(t.w, strings.Join(shown, "\t")) // kept until end
}

// end writes what has been gathered.
func (t table) end() error { return t.w.Flush() }

// cell makes text from elsewhere fit for a cell: what would steer the terminal
// or break the row is replaced.
func cell(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// paragraph is cell for texts of several lines.
func paragraph(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\n")
	for i, l := range lines {
		lines[i] = cell(strings.TrimSuffix(l, "\r"))
	}
	return strings.Join(lines, "\n")
}

// stamp is a time as --since takes it.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// span is a duration of milliseconds, for people.
func span(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// addJSON gives a command the flag --json.
func addJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Bool("json", false, "Print the API's answer as it came")
	return cmd
}

// show prints an answer: with --json as it came, else as people read it.
func show[T any](cmd *cobra.Command, answer []byte, people func(io.Writer, T) error) error {
	out := cmd.OutOrStdout()
	if flagSet(cmd, "json") {
		_, err := out.Write(answer)
		return err
	}
	v, err := readAnswer[T](answer)
	if err != nil {
		return err
	}
	return people(out, v)
}

// showList prints a list: with --json one page as it came, else a table of the
// first page that holds rows, and how to go on.
func showList[T any](cmd *cobra.Command, path string, query url.Values, columns []string, row func(T) []string) error {
	c, err := dial(cmd)
	if err != nil {
		return err
	}
	for {
		answer, err := c.get(cmd.Context(), path, query)
		if err != nil {
			return err
		}
		if !flagSet(cmd, "json") {
			page, err := readAnswer[listAnswer[json.RawMessage]](answer)
			if err != nil {
				return err
			}
			if len(page.Items) == 0 && page.Next != "" {
				query.Set("cursor", page.Next) // the store bounds the work of one answer
				continue
			}
		}
		return show(cmd, answer, func(out io.Writer, page listAnswer[T]) error {
			if len(page.Items) == 0 {
				_, err := fmt.Fprintln(out, "There are none.")
				return err
			}
			t := newTable(out, columns...)
			for _, item := range page.Items {
				t.row(row(item)...)
			}
			if err := t.end(); err != nil {
				return err
			}
			if page.Next != "" {
				cmd.PrintErrln("There are more: add --cursor " + cell(page.Next))
			}
			return nil
		})
	}
}

// addPaging gives a command the flags of a list.
func addPaging(cmd *cobra.Command) {
	cmd.Flags().Int("limit", 50, "How many rows at most")
	cmd.Flags().String("cursor", "", "Go on where the page before ended")
}

// listQuery are the flags of a list as the API's parameters. Only what was set
// is sent; since and until are read as times.
func listQuery(cmd *cobra.Command, flags ...string) (url.Values, error) {
	q := make(url.Values)
	for _, name := range append(flags, "limit", "cursor") {
		value := flagText(cmd, name)
		if name == "since" || name == "until" {
			t, err := flagTime(cmd, name)
			if err != nil {
				return nil, err
			}
			value = stamp(t)
		}
		if value != "" {
			q.Set(name, value)
		}
	}
	return q, nil
}
