package console

import "reflect"

// Routes are the API's, such as "GET /status".
func Routes() (all []string) {
	for _, r := range new(api).routes() {
		all = append(all, r.method+" "+r.path)
	}
	return all
}

// Types are those of answers and requests, by the schema that describes them.
func Types() map[string]reflect.Type {
	return map[string]reflect.Type{
		"Status":            reflect.TypeFor[statusView](),
		"Counts":            reflect.TypeFor[countsView](),
		"Webhook":           reflect.TypeFor[webhookView](),
		"WebhookWithSecret": reflect.TypeFor[withSecret](),
		"WebhookPage":       reflect.TypeFor[list[webhookView]](),
		"NewWebhook":        reflect.TypeFor[webhookInput](),
		"Rotation":          reflect.TypeFor[rotation](),
		"Recovery":          reflect.TypeFor[recovery](),
		"TestResult":        reflect.TypeFor[testView](),
		"Event":             reflect.TypeFor[eventView](),
		"Delivery":          reflect.TypeFor[deliveryView](),
		"Attempt":           reflect.TypeFor[attemptView](),
		"Activity":          reflect.TypeFor[activityView](),
		"StreamedAccepted":  reflect.TypeFor[acceptedView](),
		"StreamedAttempt":   reflect.TypeFor[attemptedView](),
		"StreamedState":     reflect.TypeFor[stateView](),
		"StreamedActivity":  reflect.TypeFor[noticedView](),
		"StreamedLost":      reflect.TypeFor[lostView](),
	}
}
