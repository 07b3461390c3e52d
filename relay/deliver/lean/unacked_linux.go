package lean

import "golang.org/x/sys/unix"

// tcpClose is TCP_CLOSE of <linux/tcp_states.h>: both sides have closed, or the peer
// has reset the connection.
const tcpClose = 7

// unacknowledged returns how many sent bytes the peer has not acknowledged (tcp(7),
// TCP_INFO), or 0 if that is unknown, as on kernels before 4.19. over reports that
// nothing more can arrive.
func (s *socket) unacknowledged() (unacked uint64, over bool) {
	_ = s.raw.Control(func(fd uintptr) { // fails on a closed socket: the number is then unknown
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.Bytes_sent == 0 {
			return
		}
		over = info.State == tcpClose
		sent := info.Bytes_sent - info.Bytes_retrans
		acked := info.Bytes_acked // includes one for the SYN
		if sent+1 > acked {
			unacked = sent + 1 - acked
		}
	})
	return unacked, over
}
