package relay

// window bounds the attempts in flight. It allows as many as configured while the
// receiver answers, one when the receiver has just recovered, and fewer when it cannot
// keep up. The algorithm is the congestion window of Postfix's queue manager.
type window struct {
	size int // at least 1
	most int
}

// set changes the bound. If the window was at its bound, it moves to the new one.
func (w *window) set(most int) {
	if w.size == w.most || w.size > most {
		w.size = most
	}
	w.most = most
}

// restart begins again with one place besides the attempts in flight, which may be
// slow.
func (w *window) restart(underWay int) { w.size = max(min(underWay+1, w.most), 1) }

// grow adds one place after a success. The window doubles with each round of successes,
// up to the bound.
func (w *window) grow() { w.size = min(w.size+1, w.most) }

// shrink halves the window because the receiver cannot keep up.
func (w *window) shrink() { w.size = max(w.size/2, 1) }
