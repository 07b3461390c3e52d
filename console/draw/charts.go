package draw

import (
	"fmt"
	"strings"
	"time"

	"github.com/userhero/relay/console/words"
	"github.com/userhero/relay/relay/tally"
)

// Charts draw what a webhook's attempts resulted in.
type Charts struct {
	Begin   time.Time // where the data begin, if that is later than the chart
	Empty   bool
	Charts  []chart
	Answers []answerShare
	Rows    []chartRow
}

// chart is a row of bars, one for each part of the time.
type chart struct {
	Name, Label string
	Width       int
	Bars        []chartBar
	From, To    time.Time
}

// chartBar is one part of the time: rectangles on top of each other, in a box of 6 by
// chartHeight.
type chartBar struct {
	Tip   string
	Rects []rect
}

type rect struct {
	Class        string
	X, Y, Height int
}

const chartHeight = 60

// answerShare is one answer in a chart of answers.
type answerShare struct {
	Answer, Name string
	Count        int64
	Share        string
	Width        int // of 100
	Kind         string
}

// chartRow are the numbers of one part.
type chartRow struct {
	From              time.Time
	Delivered, Failed int64
	Share, P50, P95   string
}

// ChartsOf draws the charts of a webhook's attempts.
func ChartsOf(s tally.Series) *Charts {
	c := &Charts{Empty: s.Since.IsZero()}
	if c.Empty {
		return c
	}
	if s.Since.After(s.Parts[0].From) {
		c.Begin = s.Since
	}
	per := map[time.Duration]string{time.Hour: "an hour", 6 * time.Hour: "six hours", 24 * time.Hour: "a day"}[s.Step]
	var all tally.Part
	var most int64 = 1
	var slowest time.Duration = 1
	for _, part := range s.Parts {
		most, slowest = max(most, part.Delivered+part.Failed), max(slowest, part.P95)
		all.Delivered, all.Failed = all.Delivered+part.Delivered, all.Failed+part.Failed
	}
	attempts := words.Counted(all.Delivered+all.Failed, "attempt", "attempts")
	worked := words.Share(all.Delivered, all.Delivered+all.Failed)
	c.Charts = []chart{
		{Name: attempts + ", at most " + words.Number(most) + " in " + per, Label: attempts + ": " + words.Number(all.Delivered) + " worked, " + words.Number(all.Failed) + " failed"},
		{Name: worked + " worked", Label: worked + " of the attempts worked"},
		{Name: "Half of the answers within " + spanOr(s.P50) + ", 95 % within " + spanOr(s.P95), Label: "Time until the answer: the median and the 95th percentile; the highest is " + spanOr(slowest)},
	}
	scaled := func(n, most int64) int {
		if n == 0 {
			return 0
		}
		return max(int(n*chartHeight/most), 2)
	}
	for i, part := range s.Parts {
		sum := part.Delivered + part.Failed
		row := chartRow{From: part.From, Delivered: part.Delivered, Failed: part.Failed, Share: words.Share(part.Delivered, sum), P50: spanOr(part.P50), P95: spanOr(part.P95)}
		if sum > 0 {
			c.Rows = append(c.Rows, row)
		}
		tip := fmt.Sprintf("%s UTC: %s worked, %s failed, %s; median %s, 95 %% within %s", part.From.Format("2 Jan 15:04"), words.Number(part.Delivered), words.Number(part.Failed), row.Share, row.P50, row.P95)
		bar := func(stack ...rect) chartBar {
			b, y := chartBar{Tip: tip}, chartHeight
			for _, piece := range stack {
				if piece.Height > 0 {
					y -= piece.Height
					piece.X, piece.Y = i*barStep, y
					b.Rects = append(b.Rects, piece)
				}
			}
			return b
		}
		good, bad := scaled(part.Delivered, most), scaled(part.Failed, most)
		good = min(good, chartHeight-bad)
		c.Charts[0].Bars = append(c.Charts[0].Bars, bar(rect{Class: "good", Height: good}, rect{Class: "bad", Height: bad}))
		goodShare := scaled(part.Delivered, max(sum, 1))
		if sum > 0 {
			c.Charts[1].Bars = append(c.Charts[1].Bars, bar(rect{Class: "good", Height: goodShare}, rect{Class: "bad", Height: chartHeight - goodShare}))
		} else {
			c.Charts[1].Bars = append(c.Charts[1].Bars, bar())
		}
		median, high := scaled(int64(part.P50), int64(slowest)), scaled(int64(part.P95), int64(slowest))
		c.Charts[2].Bars = append(c.Charts[2].Bars, bar(rect{Class: "median", Height: median}, rect{Class: "high", Height: high - median}))
	}
	for i := range c.Charts {
		c.Charts[i].Width = len(s.Parts)*barStep - barStep + 6
		c.Charts[i].From, c.Charts[i].To = s.Parts[0].From, s.Parts[len(s.Parts)-1].From.Add(s.Step)
	}
	for _, a := range s.Answers {
		kind := "bad"
		if strings.HasPrefix(a.Answer, "2") {
			kind = "good"
		}
		c.Answers = append(c.Answers, answerShare{
			Answer: a.Answer, Name: words.Answer(a.Answer), Count: a.Count, Share: words.Share(a.Count, all.Delivered+all.Failed),
			Width: max(int(a.Count*100/max(all.Delivered+all.Failed, 1)), 1), Kind: kind,
		})
	}
	return c
}

// spanOr formats a duration; a dash if there is none.
func spanOr(d time.Duration) string {
	if d <= 1 {
		return "–"
	}
	return words.Span(d)
}
