package pace

// Window bounds the attempts in flight. It allows as many as configured while the
// receiver answers, one when the receiver has just recovered, and fewer when it cannot
// keep up. The algorithm is the congestion window of Postfix's queue manager.
type Window struct {
	size int // at least 1
	most int
}

// Size returns how many attempts may be in flight.
func (w *Window) Size() int { return w.size }

// Set changes the bound. If the window was at its bound, it moves to the new one.
func (w *Window) Set(most int) {
	if w.size == w.most || w.size > most {
		w.size = most
	}
	w.most = most
}

// Restart begins again with one place besides the attempts in flight, which may be
// slow.
func (w *Window) Restart(underWay int) { w.size = max(min(underWay+1, w.most), 1) }

// Grow adds one place after a success. The window doubles with each round of successes,
// up to the bound.
func (w *Window) Grow() { w.size = min(w.size+1, w.most) }

// Shrink halves the window because the receiver cannot keep up.
func (w *Window) Shrink() { w.size = max(w.size/2, 1) }
