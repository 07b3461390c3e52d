package api

import "reflect"

// Routes are the API's, such as "GET /status".
func Routes() (all []string) {
	for _, r := range new(server).routes() {
		all = append(all, r.method+" "+r.path)
	}
	return all
}

// Types are those of answers and requests, by the schema that describes them.
func Types() map[string]reflect.Type {
	return map[string]reflect.Type{
		"Status":            reflect.TypeFor[Status](),
		"Counts":            reflect.TypeFor[Counts](),
		"Webhook":           reflect.TypeFor[Webhook](),
		"WebhookWithSecret": reflect.TypeFor[WebhookWithSecret](),
		"WebhookPage":       reflect.TypeFor[Page[Webhook]](),
		"NewWebhook":        reflect.TypeFor[WebhookSettings](),
		"Rotation":          reflect.TypeFor[Rotation](),
		"Recovery":          reflect.TypeFor[Recovery](),
		"TestResult":        reflect.TypeFor[TestResult](),
		"Event":             reflect.TypeFor[Event](),
		"Erasure":           reflect.TypeFor[Erasure](),
		"Erased":            reflect.TypeFor[Erased](),
		"Feedback":          reflect.TypeFor[Feedback](),
		"Delivery":          reflect.TypeFor[Delivery](),
		"Attempt":           reflect.TypeFor[Attempt](),
		"Activity":          reflect.TypeFor[Activity](),
		"StreamedAccepted":  reflect.TypeFor[StreamedAccepted](),
		"StreamedAttempt":   reflect.TypeFor[StreamedAttempt](),
		"StreamedState":     reflect.TypeFor[StreamedState](),
		"StreamedActivity":  reflect.TypeFor[StreamedActivity](),
		"StreamedLost":      reflect.TypeFor[StreamedLost](),
	}
}
