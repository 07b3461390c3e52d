package console

// PageRoutes are the patterns of all pages and forms, such as "GET /webhooks/{name}".
func PageRoutes() (all []string) {
	for _, r := range (pages{}).routes() {
		all = append(all, r.pattern)
	}
	return all
}
