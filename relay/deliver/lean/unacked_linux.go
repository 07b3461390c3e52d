package lean

import "golang.org/x/sys/unix"

// tcpClose is TCP_CLOSE of <linux/tcp_states.h>: both sides have closed, or the
// other side has reset the connection.
const tcpClose = 7

// unacknowledged is how many bytes were sent whose arrival the other side has not
// acknowledged (tcp(7), TCP_INFO); 0 if nobody knows. Kernels before 4.19 do not.
// Over says that nothing more can come.
func (s *socket) unacknowledged() (unacked uint64, over bool) {
	_ = s.raw.Control(func(fd uintptr) { // fails on a closed socket: then nobody knows
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.Bytes_sent == 0 {
			return
		}
		over = info.State == tcpClose
		sent := info.Bytes_sent - info.Bytes_retrans
		acked := info.Bytes_acked // with one for the SYN
		if sent+1 > acked {
			unacked = sent + 1 - acked
		}
	})
	return unacked, over
}
