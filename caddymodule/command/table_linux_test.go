package command

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"charm.land/lipgloss/v2"
	"golang.org/x/sys/unix"

	"github.com/userhero/relay/console/api"
)

// terminal is a pseudo-terminal of some width.
func terminal(t *testing.T, width int) (screen, file *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals here: ", err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	fd := int(screen.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if file, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: uint16(width)}); err != nil {
		t.Fatal(err)
	}
	return screen, file
}

// TestTablesFitTheTerminal: no line is longer than the terminal, an id stays whole, and
// states have their colour; elsewhere there is neither a bound nor a colour.
func TestTablesFitTheTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("NO_COLOR", "")
	rows := []api.Webhook{
		{Name: "a-name-of-a-webhook", State: "failing", URL: "https://crm.example.com/" + strings.Repeat("path/", 40), Reason: strings.Repeat("reason ", 20)},
		{Name: "crm", State: "active", URL: "https://crm.example.com"},
	}
	for _, width := range []int{60, 80, 120} {
		screen, file := terminal(t, width)
		if err := webhookList.print(file, rows); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64<<10)
		n, err := screen.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b[:n])
		for line := range strings.Lines(text) {
			if w := lipgloss.Width(strings.TrimRight(line, "\r\n")); w > width {
				t.Errorf("a line of %d characters on a terminal of %d: %q", w, width, line)
			}
		}
		if !strings.Contains(text, "a-name-of-a-webhook") || !strings.Contains(text, "\x1b[31m") {
			t.Errorf("on a terminal of %d: %q", width, text)
		}
	}
	var plain strings.Builder
	if err := webhookList.print(&plain, rows); err != nil {
		t.Fatal(err)
	}
	if text := plain.String(); strings.Contains(text, "\x1b") || !strings.Contains(text, rows[0].URL) {
		t.Errorf("elsewhere: %q", text)
	}
}
