package event

import "slices"

// countedMembers are the members of data that redaction leaves: what identifies feedback,
// and what people count it by.
var countedMembers = []string{"id", "projectId", "widgetId", "category", "rating", "status", "createdAt"}

// Redacted returns a stored document without the message, the context, the metadata and
// every other member that may hold what somebody wrote. Of a text that is no document it
// returns an empty object.
func Redacted(document []byte) []byte {
	const nothing = "{}"
	var t tree
	if t.parse(document, maxStoredDepth) != nil || t.at(t.root).kind != object {
		return []byte(nothing)
	}
	data := t.member(t.root, "data")
	if data == none || t.at(data).kind != object {
		return []byte(nothing)
	}
	members := t.membersOf(data)
	for _, r := range slices.Clone(members.refs) {
		if name := t.at(r).name; !slices.Contains(countedMembers, string(name)) {
			members.remove(name)
		}
	}
	members.relink()
	return t.append(make([]byte, 0, len(document)), t.root)
}
