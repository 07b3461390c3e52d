package relay

// window is how many attempts may be in flight at once: as many as configured while the
// receiver answers, one when it has just recovered, and fewer when it cannot keep up. It
// is the congestion window of Postfix's queue manager.
type window struct {
	size int // at least 1
	most int
}

// set changes the bound; a window that was full open stays so.
func (w *window) set(most int) {
	if w.size == w.most || w.size > most {
		w.size = most
	}
	w.most = most
}

// restart begins again with one besides those under way, which may be slow.
func (w *window) restart(underWay int) { w.size = max(min(underWay+1, w.most), 1) }

// grow answers a success: from one to the bound in as many rounds as it takes
// to double.
func (w *window) grow() { w.size = min(w.size+1, w.most) }

// shrink answers a receiver that cannot keep up.
func (w *window) shrink() { w.size = max(w.size/2, 1) }
