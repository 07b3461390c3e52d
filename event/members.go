package event

import "slices"

// The known members of feedback, in the order of documents. Other members come after
// these.
var (
	dataMembers = []string{"id", "projectId", "widgetId", "message", "category", "rating", "status",
		"screenshotUrl", "context", "metadata", "createdAt"}
	contextMembers = []string{"pageUrl", "referrer", "browser", "browserVersion", "os", "deviceType",
		"viewport", "timezone", "locale", "country"}
	viewportMembers = []string{"width", "height"}
)

// known returns the known members of the value at a pointer: data, context or viewport.
func known(parent string) []string {
	switch parent {
	case "":
		return dataMembers
	case "/context":
		return contextMembers
	case "/context/viewport":
		return viewportMembers
	}
	return nil
}

// isKnown reports whether a member of the value at a pointer is known.
func isKnown(parent, name string) bool { return slices.Contains(known(parent), name) }
