// Package simulation runs the real relay through weeks of fake time in seconds. A seed
// chooses the behaviour of receivers, disks and people. After every step the simulation
// checks that the relay keeps its promises.
//
// These parts are real: package relay with its HTTP client, the engine (memqueue or
// badgerqueue), and every goroutine and lock. These parts are simulated:
//
//   - time: each world runs in a testing/synctest bubble;
//   - the network: connections are pipes in memory, and the receiver's mood decides
//     whether a connection can be made;
//   - receivers: they speak real HTTP/1.1 on those pipes, with moods: well, slow, flaky,
//     hanging, refusing, unresolvable, throttling, lying, gone, and others;
//   - the disk: acknowledged events stay; a crash loses settlements since the last commit;
//     commits can be slow, stall for longer than any caller waits, and be refused because
//     the disk is full; for a real store, only the free space that it reads is simulated;
//   - people: they submit, enable, disable, rotate, redeliver, change, add and
//     delete, reload (with good and bad configurations), restart and kill.
//
// Three observers write one ledger: the tap between relay and engine, the receivers, and
// the people. They know the contract, but not the code.
//
// The simulation does not cover TLS, HTTP/2 and name resolution, damage to files, power
// loss below the file system, and a crash in the middle of a write to a file. A seed
// determines every choice, but not the order in which goroutines run within one instant.
// So a failure that is a race may need several runs to appear again.
package simulation
