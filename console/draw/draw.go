// Package draw makes the console's drawings: bars of a day, charts of a time and the
// ladder of a webhook.
//
// It promises numbers that templates write into SVG attributes, because the content
// security policy allows no inline styles; each drawing has a label for screen readers. It
// knows neither requests nor pages, and reads nothing: it is given the numbers that it
// draws. The tests of package console read the drawings on the pages, and e2e/console
// sees them in a browser.
package draw

import (
	"fmt"
	"strings"
	"time"

	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/relay/tally"
)

// Bars is a row of bars, one for each hour.
type Bars struct {
	Label string // for screen readers
	Kind  string // its colour: good, bad or plain
	Bars  []bar
}

// bar is one hour, in a box of 190 by 36: 24 bars of 6, and 2 between them.
type bar struct {
	X, Y, Height float64
	Tip          string
}

const (
	barStep   = 8
	barHeight = 36
)

// BarsOf draws one number of each hour. The largest bar is as high as the row.
func BarsOf(day tally.Day, what, kind string, of func(tally.Hour) int64) Bars {
	b := Bars{Kind: kind, Bars: make([]bar, 0, len(day.Hours))}
	var sum, largest int64
	for _, h := range day.Hours {
		n := of(h)
		sum += n
		largest = max(largest, n)
	}
	for i, h := range day.Hours {
		n := of(h)
		height := float64(n) / float64(max(largest, 1)) * barHeight
		if n > 0 {
			height = max(height, 2) // a small number is visible too
		} else {
			height = 1
		}
		b.Bars = append(b.Bars, bar{
			X: float64(i * barStep), Y: barHeight - height, Height: height,
			Tip: fmt.Sprintf("%s–%s UTC: %s", h.From.Format("15:04"), h.From.Add(time.Hour).Format("15:04"), words.Number(n)),
		})
	}
	b.Label = fmt.Sprintf("%s per hour in the last 24 hours: %s, at most %s in one hour", what, words.Number(sum), words.Number(largest))
	return b
}

// Stacked is a webhook's day as two paths: for each hour a bar of what was delivered
// and, on top, what failed.
type Stacked struct{ Label, Good, Bad string }

// StackedOf draws a webhook's day. The hour with the most is as high as the row.
func StackedOf(day tally.Day) Stacked {
	var most int64 = 1
	for _, h := range day.Hours {
		most = max(most, h.Delivered+h.Failed)
	}
	scale := func(n int64) int {
		if n == 0 {
			return 0
		}
		return max(int(float64(n)/float64(most)*barHeight), 2)
	}
	var good, bad strings.Builder
	for i, h := range day.Hours {
		g, b := scale(h.Delivered), scale(h.Failed)
		if b = min(b, barHeight); g+b > barHeight {
			g = barHeight - b
		}
		if g > 0 {
			fmt.Fprintf(&good, "M%d %dv-%dh6v%dz", i*barStep, barHeight, g, g)
		}
		if b > 0 {
			fmt.Fprintf(&bad, "M%d %dv-%dh6v%dz", i*barStep, barHeight-g, b, b)
		}
	}
	sum := day.Sum()
	return Stacked{fmt.Sprintf("Last 24 hours: %s delivered, %s failed", words.Counted(sum.Delivered, "delivery", "deliveries"), words.Counted(sum.Failed, "attempt", "attempts")),
		good.String(), bad.String()}
}

// Ladder shows the attempts of a webhook in a row, and where a delivery stands.
type Ladder struct {
	Label string
	Steps []step
	// From and To are the ends of the line, Reached is where the delivery stands; all
	// in percent of the width.
	From, To, Reached float64
	Here              bool // a delivery stands on it
}

// step is one attempt. X is in percent of the width.
type step struct {
	X     float64
	Name  string // its delay: "at once", "1m", …; empty if there is no room
	State string // failed, here or ahead
}

// namedSteps is how many names fit on a phone.
const namedSteps = 8

// LadderOf draws a ladder and a delivery with so many attempts made; -1 draws no
// delivery.
func LadderOf(rungs []time.Duration, made int) Ladder {
	n := len(rungs) + 1
	l := Ladder{Here: made >= 0 && made < n}
	width := 100 / float64(n)
	l.From, l.To = width/2, 100-width/2
	l.Reached = l.From
	for i := range n {
		s := step{X: width * (float64(i) + 0.5), Name: "at once", State: "ahead"}
		if i > 0 {
			s.Name = words.Rung(rungs[i-1])
		}
		if n > namedSteps && i != 0 && i != n-1 && i != made {
			s.Name = ""
		}
		switch {
		case i < made:
			s.State = "failed"
		case l.Here && i == made:
			s.State = "here"
			l.Reached = s.X
		}
		l.Steps = append(l.Steps, s)
	}
	l.Label = fmt.Sprintf("The ladder: one attempt at once and %s", words.Counted(int64(len(rungs)), "retry", "retries"))
	if l.Here {
		l.Label = fmt.Sprintf("The ladder of %d attempts: %d failed, the next is number %d", n, made, made+1)
	}
	return l
}
