// Each page with its title, its address below the root of the site, and its text.
window.pages = [{{ range $i, $p := site.RegularPages }}{{ if $i }},{{ end }}{{ dict "title" (trim (partial "title.html" $p) " \n") "url" (strings.TrimPrefix "/" $p.RelPermalink) "text" $p.Plain | jsonify }}{{ end }}];
