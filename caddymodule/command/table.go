package command

import (
	"io"
	"os"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"
	layout "charm.land/lipgloss/v2/table"
	"golang.org/x/term"
)

// table prints rows with aligned columns. On a terminal it is no wider than that: what
// does not fit ends with an ellipsis, but for the first column, whose ids are for
// copying. States are coloured there.
type table struct {
	out     io.Writer
	columns []string // empty: the first column has names
	rows    [][]string
}

// newTable begins a table; without columns it has no header.
func newTable(out io.Writer, columns ...string) *table { return &table{out: out, columns: columns} }

// row adds a row; an empty cell is shown as "-".
func (t *table) row(cells ...string) {
	shown := make([]string, len(cells))
	for i, c := range cells {
		if shown[i] = cell(c); shown[i] == "" {
			shown[i] = "-"
		}
	}
	t.rows = append(t.rows, shown)
}

// colours of states, by the numbers that every terminal has.
var colours = map[string]string{
	"active": "2", "delivered": "2", "ok": "2",
	"failing": "1", "failed": "1",
	"paused": "3", "disabled": "3", "held": "3", "retrying": "3", "pending": "3",
}

// end writes the table.
func (t *table) end() error {
	if len(t.rows) == 0 && len(t.columns) == 0 {
		return nil
	}
	const gap = 2
	rows := t.rows
	if len(t.columns) > 0 {
		rows = append([][]string{t.columns}, rows...)
	}
	last, first := 0, 0
	for _, r := range rows {
		last, first = max(last, len(r)-1), max(first, lipgloss.Width(r[0]))
	}
	state := slices.Index(t.columns, "STATE")
	l := layout.New().Border(lipgloss.Border{}).BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).
		BorderHeader(false).BorderColumn(false).Rows(rows...).Wrap(len(t.columns) == 0).
		StyleFunc(func(row, column int) lipgloss.Style {
			style := lipgloss.NewStyle()
			if column < last {
				style = style.PaddingRight(gap)
			}
			switch {
			case row == 0 && len(t.columns) > 0, len(t.columns) == 0 && column == 0:
				style = style.Faint(true)
			case column == state || len(t.columns) == 0 && rows[row][0] == "State":
				if c, ok := colours[rows[row][column]]; ok {
					style = style.Foreground(lipgloss.Color(c))
				}
			}
			if column == 0 {
				style = style.Width(first + gap*min(last, 1))
			}
			return style
		})
	if width := widthOf(t.out); width > 0 && lipgloss.Width(l.String()) > width {
		l.Width(width)
	}
	lines := strings.Split(l.String(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	_, err := lipgloss.Fprintln(t.out, strings.Join(lines, "\n")) // without colours unless out is a terminal
	return err
}

// widthOf returns how many characters a line of a terminal has; 0 if out is none.
func widthOf(out io.Writer) int {
	file, ok := out.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// isTerminal reports whether a person reads or writes there.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
