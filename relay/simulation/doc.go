// Package simulation runs the relay as it is, for weeks of fake time in
// seconds, against receivers, disks and people that a seed chooses, and holds
// it to its promises after every step.
//
// Real are: package relay with its HTTP client, the engine (memqueue or
// badgerqueue), every goroutine and lock. Simulated are:
//
//   - time: each world lives in a testing/synctest bubble;
//   - the network: connections are pipes in memory, and whether one can be made
//     is the receiver's mood;
//   - receivers: real HTTP/1.1 on those pipes, with moods: well, slow, flaky,
//     hanging, refusing, unresolvable, throttling, lying, gone, and others;
//   - the disk: what was acknowledged stays, settlements are lost until the next
//     commit, commits can be slow, stall for longer than anybody waits, and be
//     refused for lack of room; of a real store, the free space that it reads;
//   - people: they submit, enable, disable, rotate, redeliver, change, add and
//     delete, reload (well and badly), restart and kill.
//
// Three witnesses keep one ledger: the tap between relay and engine, the
// receivers, and the people. They know the contract and not the code.
//
// Not simulated are TLS, HTTP/2 and name resolution, damage to files, power loss
// below the file system, and a crash in the middle of a write to a file. A seed
// fixes every choice, but not the order in which goroutines run within one
// instant: a failure that is a race may take a few runs to come again.
package simulation
