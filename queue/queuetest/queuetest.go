// Package queuetest holds every engine to what package queue promises.
//
// Run runs one named subtest per promise, so a failure reads as the promise
// that is broken. The suite knows an engine through its Harness only: it works
// in real time, allows settlements to become visible late, as engines that
// commit them lazily need, and waits for what must come with a deadline rather
// than for a fixed time. Only "nothing comes" is judged by a moment of waiting.
package queuetest

import (
	"testing"
	"time"

	"github.com/userhero/relay/queue"
)

// Harness is how the suite gets at an engine. Each function ends the test when
// it cannot do its work. The suite closes every queue that it was given.
type Harness struct {
	// Open returns a new, empty queue. It is called by subtests in parallel.
	Open func(t *testing.T) queue.Queue
	// OpenOn is Open on a clock of the suite's. Nil where the engine has a clock
	// that is not its machine's: the subtests of time are then left out. Patience
	// must cover what such a queue needs to see that the machine has slept.
	OpenOn func(t *testing.T, c queue.Clock) queue.Queue
	// OpenWithin is Open with limits. Nil if the engine keeps everything: the subtests
	// of retention and of max_disk are then left out.
	OpenWithin func(t *testing.T, l queue.Limits) queue.Queue
	// Reopen opens what q stored, once more. The suite has closed q.
	Reopen func(t *testing.T, q queue.Queue) queue.Queue
	// Crash ends q as a killed process would, without closing it, and opens
	// what q had committed. Nil where the engine cannot show that within a
	// process: the subtests that need it are then left out.
	Crash func(t *testing.T, q queue.Queue) queue.Queue
	// Retention is what the subtests of retention keep events for: longer than an engine
	// needs to look and to answer, and short enough to wait for. Default 500 ms.
	Retention time.Duration
	// MaxDisk is what the subtests of max_disk fill, in bytes: much more than the engine
	// keeps beside events. Default 48 MiB.
	MaxDisk int64
	// Steps is how many operations the random test makes. Default 3,000.
	Steps int
	// Patience is how long the suite waits for what must come. Default 15 s.
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
		// What Enqueue says.
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

		// What lanes hand out.
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

		// What settling does.
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

		// What Requeue says.
		{"RequeueGivesFreshLadder", requeueGivesFreshLadder},
		{"RequeueIsNeverEarly", requeueIsNeverEarly},
		{"RequeueMovesWhatWaits", requeueMovesWhatWaits},
		{"ZeroTimeIsAtOnce", zeroTimeIsAtOnce},
		{"RequeueLeavesLeasedAlone", requeueLeavesLeasedAlone},
		{"RequeueMakesAMissingDelivery", requeueMakesAMissingDelivery},
		{"RequeueOfUnknownIsNotFound", requeueOfUnknownIsNotFound},

		// What reading shows.
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

		// What webhook records say.
		{"WebhookRevisionsAreCompareAndSwap", webhookRevisionsAreCompareAndSwap},
		{"ConcurrentPutsLetOneWin", concurrentPutsLetOneWin},
		{"WebhookNamesAreUnique", webhookNamesAreUnique},
		{"WebhookIDsAreNeverReused", webhookIDsAreNeverReused},
		{"WebhooksComeByID", webhooksComeByID},
		{"DeleteEndsWhatWaits", deleteEndsWhatWaits},

		// What outlives a process.
		{"ReopenKeepsEverything", reopenKeepsEverything},
		{"ReopenHandsLeasesOutAgain", reopenHandsLeasesOutAgain},
		{"CloseCommitsWhatWasSettled", closeCommitsWhatWasSettled},
		{"CloseUnderLoadLosesNothing", closeUnderLoadLosesNothing},
		{"ClosedQueueSaysSo", closedQueueSaysSo},

		// All of it at once.
		{"RandomOperationsAgreeWithTheModel", randomOperationsAgreeWithTheModel},
		{"ConcurrentUseKeepsEveryPromise", concurrentUseKeepsEveryPromise},
	}
	if h.Crash != nil {
		promises = append(promises,
			promise{"CrashKeepsWhatWasAcknowledged", crashKeepsWhatWasAcknowledged},
			promise{"CrashLosesNoDelivery", crashLosesNoDelivery},
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
