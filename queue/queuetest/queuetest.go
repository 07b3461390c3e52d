// Package queuetest checks that an engine keeps what package queue promises.
//
// Run runs one named subtest per promise, so a failure names the broken promise. The
// suite knows an engine only through its Harness and works in real time. Settlements
// may become visible late, because some engines commit them lazily. The suite waits for
// expected results up to a deadline, not for a fixed time; only to see that nothing
// comes, it waits for a moment.
package queuetest

import (
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// Harness gives the suite access to an engine. Each function must end the test if it
// fails. The suite closes every queue it gets.
type Harness struct {
	// Open returns a new, empty queue. Subtests call it in parallel.
	Open func(t *testing.T) queue.Queue
	// OpenOn does the same with a clock of the suite. If it is nil, because the engine
	// does not use its machine's clock, the subtests of time are left out. Patience
	// must be longer than such a queue needs to notice that the machine has slept.
	OpenOn func(t *testing.T, c queue.Clock) queue.Queue
	// OpenWithin opens a new, empty queue with limits. If it is nil, because the engine
	// keeps everything, the subtests of retention and max_disk are left out.
	OpenWithin func(t *testing.T, l queue.Limits) queue.Queue
	// Erases reports that the engine is a queue.Eraser. If it is not, the subtests of
	// erasing are left out.
	Erases bool
	// Redacts reports that the engine redacts events, as queue.Limits says. If it does
	// not, the subtests of redacting are left out.
	Redacts bool
	// Reopen opens the store of q again. The suite has closed q.
	Reopen func(t *testing.T, q queue.Queue) queue.Queue
	// Crash ends q like a killed process, without closing it, and opens what q had
	// committed. If it is nil, because the engine cannot simulate this in one process,
	// the subtests that need it are left out.
	Crash func(t *testing.T, q queue.Queue) queue.Queue
	// Join opens the store of q, which stays open, for another relay. If it is nil,
	// because only one process can open a store, the subtests of several relays are left
	// out.
	Join func(t *testing.T, q queue.Queue) queue.Queue
	// Lose takes the lane of a webhook from the relay with queue q, as if it had been cut
	// off. It must not be nil if Join is not.
	Lose func(t *testing.T, q queue.Queue, w queue.WebhookID)
	// Retention is the retention in the subtests. It must be longer than an engine
	// needs to check and to answer, and short enough to wait for. Default 500 ms.
	Retention time.Duration
	// MaxDisk is the bound in bytes in the subtests of max_disk. It must be much more
	// than the engine stores besides events. Default 48 MiB.
	MaxDisk int64
	// Steps is the number of operations in the random test. Default 3,000.
	Steps int
	// Patience is how long the suite waits for an expected result. Default 15 s.
	Patience time.Duration
}

// promise is one subtest.
type promise struct {
	name string
	keep func(t *trial)
}

// Run checks every promise. Subtests run in parallel.
func Run(t *testing.T, h Harness) {
	promises := []promise{
		// Enqueue.
		{"EventBytesAreUnchanged", eventBytesAreUnchanged},
		{"EventIsStoredWhole", eventIsStoredWhole},
		{"EventIDsAreUniqueAndSorted", eventIDsAreUniqueAndSorted},
		{"EventIDsOfTwoStoresNeverMeet", eventIDsOfTwoStoresNeverMeet},
		{"EventGoesToItsWebhooksOnly", eventGoesToItsWebhooksOnly},
		{"DuplicateWebhooksMakeOneDelivery", duplicateWebhooksMakeOneDelivery},
		{"DeletedWebhooksGetNothing", deletedWebhooksGetNothing},
		{"EnqueueIsIdempotentOnKey", enqueueIsIdempotentOnKey},
		{"KeyWithAnotherBodyIsMismatch", keyWithAnotherBodyIsMismatch},
		{"LongKeysAreToldApart", longKeysAreToldApart},
		{"RepeatsGetTheFirstAnswer", repeatsGetTheFirstAnswer},
		{"RefusedEntryBindsNoKey", refusedEntryBindsNoKey},
		{"KeyIsBoundWithoutEvent", keyIsBoundWithoutEvent},
		{"EntriesOutOfBoundsAreRefused", entriesOutOfBoundsAreRefused},
		{"ConcurrentEqualKeysMakeOneEvent", concurrentEqualKeysMakeOneEvent},
		{"ReplacesIsCompareAndSwap", replacesIsCompareAndSwap},
		{"ConcurrentReplacesLetOneWin", concurrentReplacesLetOneWin},
		{"FeedbackIsKnownByProjectAndID", feedbackIsKnownByProjectAndID},
		{"LongProjectsAreToldApart", longProjectsAreToldApart},
		{"CreateNeverReplaces", createNeverReplaces},
		{"ConcurrentCreatesLetOneWin", concurrentCreatesLetOneWin},
		{"SameOriginIsARepeat", sameOriginIsARepeat},
		{"ReplayWinsOverConflict", replayWinsOverConflict},
		{"CancelledEnqueueIsWholeOrNothing", cancelledEnqueueIsWholeOrNothing},

		// Lanes.
		{"LaneOpensOnce", laneOpensOnce},
		{"UnopenedLaneKeepsDeliveriesWaiting", unopenedLaneKeepsDeliveriesWaiting},
		{"NextWaitsForWork", nextWaitsForWork},
		{"NextHonoursMax", nextHonoursMax},
		{"NextReturnsTheContextsError", nextReturnsTheContextsError},
		{"CloseWakesNext", closeWakesNext},
		{"MaxInFlightIsABound", maxInFlightIsABound},
		{"MaxInFlightIsEightByDefault", maxInFlightIsEightByDefault},
		{"FreshComeInOrderOfAcceptance", freshComeInOrderOfAcceptance},
		{"RetriesComeByDueTime", retriesComeByDueTime},
		{"FreshIsNotBehindBacklog", freshIsNotBehindBacklog},
		{"RetryIsNotBehindFresh", retryIsNotBehindFresh},
		{"RetryIsNeverEarly", retryIsNeverEarly},
		{"SlowWebhookDelaysNobody", slowWebhookDelaysNobody},
		{"ClosedLaneLosesItsLeases", closedLaneLosesItsLeases},

		// Settling.
		{"LeaseIsSettledOnce", leaseIsSettledOnce},
		{"SettledLeaseHasNoPowerOverTheNext", settledLeaseHasNoPowerOverTheNext},
		{"ConcurrentSettlesLetOneWin", concurrentSettlesLetOneWin},
		{"AckDelivers", ackDelivers},
		{"DeadFailsAndKeeps", deadFailsAndKeeps},
		{"RetryTakesTheNextRung", retryTakesTheNextRung},
		{"DeferUsesNoAttempt", deferUsesNoAttempt},
		{"DeferAtOnceComesFirst", deferAtOnceComesFirst},
		{"DeferWaitsForItsTime", deferWaitsForItsTime},
		{"AttemptsAreKeptWhole", attemptsAreKeptWhole},

		// Requeue.
		{"RequeueGivesFreshLadder", requeueGivesFreshLadder},
		{"RequeueIsNeverEarly", requeueIsNeverEarly},
		{"RequeueMovesWhatWaits", requeueMovesWhatWaits},
		{"ZeroTimeIsAtOnce", zeroTimeIsAtOnce},
		{"RequeueLeavesLeasedAlone", requeueLeavesLeasedAlone},
		{"RequeueMakesAMissingDelivery", requeueMakesAMissingDelivery},
		{"RequeueOfUnknownIsNotFound", requeueOfUnknownIsNotFound},

		// Reading.
		{"UnknownIsNotFound", unknownIsNotFound},
		{"LatestIsTheNewestOfItsFeedback", latestIsTheNewestOfItsFeedback},
		{"CaughtAreTheNewestForADay", caughtAreTheNewestForADay},
		{"EventDeliveriesComeByWebhook", eventDeliveriesComeByWebhook},
		{"EventsAreSelected", eventsAreSelected},
		{"DeliveriesAreSelected", deliveriesAreSelected},
		{"LimitsBoundPages", limitsBoundPages},
		{"CursorsStayRightWhileRowsCome", cursorsStayRightWhileRowsCome},
		{"BadCursorIsAnError", badCursorIsAnError},
		{"RelayOwnEventsAreInNoList", relayOwnEventsAreInNoList},
		{"ActivitiesAreNewestFirst", activitiesAreNewestFirst},
		{"StatsCountStates", statsCountStates},
		{"OldestDueTellsSinceWhen", oldestDueTellsSinceWhen},

		// Webhook records.
		{"WebhookRevisionsAreCompareAndSwap", webhookRevisionsAreCompareAndSwap},
		{"ConcurrentPutsLetOneWin", concurrentPutsLetOneWin},
		{"WebhookNamesAreUnique", webhookNamesAreUnique},
		{"WebhookIDsAreNeverReused", webhookIDsAreNeverReused},
		{"WebhooksComeByID", webhooksComeByID},
		{"DeleteEndsWhatWaits", deleteEndsWhatWaits},

		// Restarts and crashes.
		{"ReopenKeepsEverything", reopenKeepsEverything},
		{"ReopenHandsLeasesOutAgain", reopenHandsLeasesOutAgain},
		{"CloseCommitsWhatWasSettled", closeCommitsWhatWasSettled},
		{"CloseUnderLoadLosesNothing", closeUnderLoadLosesNothing},
		{"ClosedQueueSaysSo", closedQueueSaysSo},

		// Everything at once.
		{"RandomOperationsAgreeWithTheModel", randomOperationsAgreeWithTheModel},
		{"ConcurrentUseKeepsEveryPromise", concurrentUseKeepsEveryPromise},
	}
	if h.Erases {
		promises = append(promises,
			promise{"EraseRemovesEverything", eraseRemovesEverything},
			promise{"ErasedNeverComesBack", erasedNeverComesBack},
			promise{"EraseWaitsForAttemptsInFlight", eraseWaitsForAttemptsInFlight},
			promise{"EraseEndsWithItsContext", eraseEndsWithItsContext},
			promise{"ErasedDeliveriesAreNotHandedOut", erasedDeliveriesAreNotHandedOut},
			promise{"EraseOfUnknownDoesNothing", eraseOfUnknownDoesNothing},
			promise{"EraseHoldsAgainstEverybody", eraseHoldsAgainstEverybody},
		)
	}
	if h.Crash != nil {
		promises = append(promises,
			promise{"CrashKeepsWhatWasAcknowledged", crashKeepsWhatWasAcknowledged},
			promise{"CrashLosesNoDelivery", crashLosesNoDelivery},
			promise{"SyncIsDurable", syncIsDurable},
		)
	}
	if h.Crash != nil && h.Erases {
		promises = append(promises, promise{"CrashBringsNothingErasedBack", crashBringsNothingErasedBack})
	}
	if h.Join != nil {
		promises = append(promises,
			promise{"LaneHasOneOwner", laneHasOneOwner},
			promise{"LostLaneSettlesNothing", lostLaneSettlesNothing},
			promise{"RetriesMoveWithTheirLane", retriesMoveWithTheirLane},
			promise{"RelaysSeeTheSame", relaysSeeTheSame},
			promise{"WatchTellsOfEveryRelay", watchTellsOfEveryRelay},
			promise{"TellReachesTheOthers", tellReachesTheOthers},
		)
	}
	if h.OpenOn != nil {
		promises = append(promises,
			promise{"ClockSetBackDelaysNothing", clockSetBackDelaysNothing},
			promise{"ClockSetForwardHastensNothing", clockSetForwardHastensNothing},
			promise{"SleepIsTimeThatPasses", sleepIsTimeThatPasses},
		)
	}
	if h.OpenWithin != nil {
		promises = append(promises,
			promise{"RetentionCountsFromTheEnd", retentionCountsFromTheEnd},
			promise{"RetentionCountsFromTheLastDelivery", retentionCountsFromTheLastDelivery},
			promise{"CancelledDeliveriesHoldNothing", cancelledDeliveriesHoldNothing},
			promise{"ParkedDeliveriesExpire", parkedDeliveriesExpire},
			promise{"ParkedAndDeletedWebhooksLetGo", parkedAndDeletedWebhooksLetGo},
			promise{"KeysOutliveTheirEvents", keysOutliveTheirEvents},
			promise{"ActivitiesGoAfterTheRetention", activitiesGoAfterTheRetention},
			promise{"LimitsCanChange", limitsCanChange},
			promise{"EvictionTakesTheOldestAndNoMore", evictionTakesTheOldestAndNoMore},
			promise{"FullQueueKeepsWhatWaits", fullQueueKeepsWhatWaits},
		)
	}
	if h.OpenWithin != nil && h.Redacts {
		promises = append(promises,
			promise{"RedactionLeavesWhatIsCounted", redactionLeavesWhatIsCounted},
			promise{"RedactionEndsWhatIsParked", redactionEndsWhatIsParked},
			promise{"RedactionHoldsAgainstEverybody", redactionHoldsAgainstEverybody},
			promise{"RedactedGoesAfterTheRetention", redactedGoesAfterTheRetention},
		)
	}
	if h.Patience == 0 {
		h.Patience = 15 * time.Second
	}
	if h.Retention == 0 {
		h.Retention = 500 * time.Millisecond
	}
	if h.MaxDisk == 0 {
		h.MaxDisk = 48 << 20
	}
	if h.Steps == 0 {
		h.Steps = 3000
	}
	for _, p := range promises {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.keep(newTrial(t, h))
		})
	}
}
