package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

// show prints an answer of the API: with --json unchanged, else with print.
func show[T any](cmd *cobra.Command, answer []byte, print func(io.Writer, T) error) error {
	out := cmd.OutOrStdout()
	if flagSet(cmd, "json") {
		_, err := out.Write(answer)
		return err
	}
	v, err := decode[T](answer, nil)
	if err != nil {
		return err
	}
	return print(out, v)
}

// showAnswer sends a request to the API and prints the answer, as show does.
func showAnswer[T any](cmd *cobra.Command, method, path string, in any, print func(io.Writer, T) error) error {
	answer, err := send(cmd, method, path, in)
	if err != nil {
		return err
	}
	return show(cmd, answer, print)
}

// showValue prints a value that no single answer of the API holds, as show does.
func showValue[T any](cmd *cobra.Command, value any, print func(io.Writer, T) error) error {
	answer, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return show(cmd, append(answer, '\n'), print)
}

// list is how a list of the API is printed: as a table, a row for each item.
type list[T any] struct {
	columns []string
	row     func(T) []string
	empty   string // is printed if there are no items
}

func (l list[T]) print(out io.Writer, items []T) error {
	if len(items) == 0 {
		_, err := fmt.Fprintln(out, l.empty)
		return err
	}
	t := newTable(out, l.columns...)
	for _, item := range items {
		t.row(l.row(item)...)
	}
	return t.end()
}

// page prints a page of the API; it is an argument of show.
func (l list[T]) page(out io.Writer, page api.Page[T]) error { return l.print(out, page.Items) }

// show asks for a list and prints it: with --json one page, else the first page
// that has rows and, on standard error, how to get the next one.
func (l list[T]) show(cmd *cobra.Command, path string, query url.Values) error {
	for {
		answer, err := get(cmd, path, query)
		if err != nil {
			return err
		}
		page, err := decode[api.Page[json.RawMessage]](answer, nil)
		if err != nil || flagSet(cmd, "json") {
			return show(cmd, answer, l.page)
		}
		if len(page.Items) == 0 && page.Next != "" {
			query.Set("cursor", page.Next) // the store bounds the work for one answer
			continue
		}
		if err := show(cmd, answer, l.page); err != nil {
			return err
		}
		if page.Next != "" {
			cmd.PrintErrln("There are more: add --cursor " + cell(page.Next))
		}
		return nil
	}
}

// cell makes a text safe to print in a table or a message: control characters,
// which could steer the terminal, and line breaks are replaced.
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

// timestamp formats a time as --since reads it; the zero time is empty.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// paragraph is cell for a text of several lines.
func paragraph(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\n")
	for i, l := range lines {
		lines[i] = cell(strings.TrimSuffix(l, "\r"))
	}
	return strings.Join(lines, "\n")
}

// shorten cuts a text to the length of a cell.
func shorten(text string) string {
	const most = 60 // characters
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// milliseconds formats a duration given in milliseconds.
func milliseconds(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// counted is a number with what it counts: "1 delivery waits", "2 deliveries wait".
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// errUnchanged: the person who was asked did not say yes.
var errUnchanged = errors.New("nothing was changed; answer y, or add --yes")

// addYes adds the flag --yes to a command that asks before it changes something.
func addYes(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolP("yes", "y", false, "Do not ask")
	return cmd
}

// ask asks a question on standard error unless --yes is set. It returns errUnchanged
// unless the answer begins with y.
func ask(cmd *cobra.Command, format string, args ...any) error {
	if flagSet(cmd, "yes") {
		return nil
	}
	cmd.PrintErrf(format+" [y/N] ", args...)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // no answer is no
	if a := strings.ToLower(strings.TrimSpace(answer)); a == "y" || a == "yes" {
		return nil
	}
	return errUnchanged
}

// askPerson is ask if a person can answer. Scripts of before there was a question go on.
func askPerson(cmd *cobra.Command, format string, args ...any) error {
	if !isTerminal(cmd.InOrStdin()) {
		return nil
	}
	return ask(cmd, format, args...)
}

// say prints what was done.
func say(cmd *cobra.Command, format string, args ...any) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}
