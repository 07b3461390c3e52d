// Package badgercompat is everything that the store does only because Badger v4.9.6
// does something wrong. It promises that nothing of Badger is reached but by its
// exported names, its messages and its files. It knows no records and no store; it is
// tested by itself where it can be, and by the tests of badgerqueue that the table
// names.
//
//	defect of Badger                          upstream           here                    test                                        delete when
//	────────────────────────────────────────  ─────────────────  ──────────────────────  ──────────────────────────────────────────  ─────────────────────────────────
//	it writes through memory maps of sparse   #1682 #1801 #1199  Disk                    TestFullDiskRefusesAndLives,                a full disk is an error, as it is
//	files: a full disk ends the process       (closed, stale)                            TestWithoutTheGuardAFullDiskKills           with write(2)
//	likewise while tables are merged          none found         Compactions.begin       TestCompactionWaitsForRoom                  likewise
//	likewise in the log of a commit           #1682 (its trace)  CommitLog.Reserve       TestLogIsWrittenAheadOfItsCommits,          likewise
//	                                                                                     e2e TestDiskThatFillsAndGetsRoom
//	a compaction forgets the error of a       none found         Compactions             TestTableThatCannotBeWrittenLosesNothing,   subcompact returns the error: the
//	table and removes what it was made of                                                TestUnwatchedCompactionLosesEvents          second test fails then
//	SyncWrites syncs the value log too, and   none found; asked  CommitLog.Sync, Extend  TestCommitLogIsTheMemtables,                an option syncs the memtable's
//	each log grows into a hole                for: #749                                  TestAcknowledgedEventsSurvivePowerLoss      log alone
//	what it cannot write it only logs, and    #864 #664          Logger                  TestFailedWritesAreNeverAcknowledged        such errors are returned
//	tries again for ever
//	a log of no bytes, as a crash leaves it,  none found         ReadyLogs               TestStoreOfADeadProcessOpens                Open takes one
//	is refused at every start
//	logs that are read back are not synced    none found         ReadyLogs               TestWhatAKilledProcessWroteIsSynced…        Open syncs what it has replayed
//	Open ends the process if DISCARD cannot   #2234 (permission) MakeDiscard             TestReadOnlyDiskIsRefused                   Open returns the error
//	be made
//	errors carry a stack in their text        none found         WithoutStack            –                                           they do not
//
// What else Badger does and the store works around is where it belongs: damage that
// is cut off in silence (#434, #690, #1049, #1883: storefile reads the files before
// Badger does), a memtable that can only be flushed by filling it (#1525: the store's
// reclaimer), transactions that wait for the commit under way (the store's snapshots).
//
// # Locks
//
// Compactions.mu is taken before the store's visible, which it needs for a snapshot,
// and before the locks of Badger's levels; Disk.mu after Compactions.mu. Nothing of
// this package is called with the store's locks held.
package badgercompat
