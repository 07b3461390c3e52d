package badgercompat

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// Logger is a badger.Logger. It logs Badger's messages, and passes failed writes to Failed,
// because Badger only logs them, retries forever, and accepts new writes meanwhile.
type Logger struct {
	Log         *slog.Logger
	Failed      func(error) error
	Compactions *Compactions
}

// Errorf logs what failed on the disk: a memtable that cannot become a table, a log
// that cannot be made or removed.
func (l Logger) Errorf(f string, a ...any) {
	l.print(slog.LevelError, f, a)
	_ = l.Failed(fmt.Errorf(strings.TrimSpace(f), a...))
}

// Warningf logs, among others, that a compaction failed.
func (l Logger) Warningf(f string, a ...any) {
	l.print(slog.LevelWarn, f, a)
	if strings.Contains(f, "FAILED") {
		_ = l.Failed(fmt.Errorf(strings.TrimSpace(f), a...))
	}
	l.Compactions.Logged(f, a)
}

// Infof logs as debug: it is about Badger's own tables and compactions.
func (l Logger) Infof(f string, a ...any) { l.print(slog.LevelDebug, f, a) }

// Debugf logs nothing. There is one message per write.
func (l Logger) Debugf(f string, a ...any) { l.Compactions.Logged(f, a) }

func (l Logger) print(level slog.Level, f string, a []any) {
	if l.Log.Enabled(context.Background(), level) {
		l.Log.Log(context.Background(), level, strings.TrimSpace(fmt.Sprintf(f, a...)), "part", "badger")
	}
}

// WithoutStack returns an error without the stack that some of Badger's carry in
// their text.
func WithoutStack(err error) error { return firstLine{err} }

type firstLine struct{ error }

func (e firstLine) Error() string {
	line, _, _ := strings.Cut(e.error.Error(), "\n")
	return line
}

func (e firstLine) Unwrap() error { return e.error }
