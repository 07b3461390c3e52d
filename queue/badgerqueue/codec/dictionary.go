package codec

// dictionary1 is what documents have in common: their members in the usual order, and
// common values. What is nearest to its end costs the least to refer to, so the most
// common members stand there. Stored documents refer to it by offsets, so it never
// changes: a better one gets another number.
const dictionary1 = `"America/Sao_Paulo"America/Toronto"America/Denver"America/Chicago"America/Los_Angeles"America/New_York"` +
	`"Asia/Kolkata"Asia/Singapore"Asia/Shanghai"Asia/Tokyo"Australia/Sydney"` +
	`"Europe/Warsaw"Europe/Rome"Europe/Amsterdam"Europe/Madrid"Europe/Zurich"Europe/Paris"Europe/London"` +
	`,"locale":"pt-BR","country":"BR"},"locale":"es-ES","country":"ES"},"locale":"fr-FR","country":"FR"},"locale":"en-GB",` +
	`"country":"GB"},"locale":"de-DE","country":"DE"}` +
	`"viewport":{"width":390,"height":844},"viewport":{"width":1366,"height":768},"viewport":{"width":1440,"height":900},` +
	`"viewport":{"width":1536,"height":864}` +
	`"browser":"Samsung Internet","browser":"Opera","browser":"Edge","browserVersion":"1","browser":"Firefox","browserVersion":"14"` +
	`,"os":"Linux","deviceType":"desktop","os":"iOS","deviceType":"tablet","os":"Android","deviceType":"mobile"` +
	`"browser":"Mobile Safari","browser":"Safari","browserVersion":"18","os":"iOS","deviceType":"mobile"` +
	`"browser":"Chrome","browserVersion":"14","os":"macOS","deviceType":"desktop","locale":"en-US","country":"US"` +
	`{"event":"feedback.updated","timestamp":"2026-11-28T16:00:00Z","data":{"id":"fb_` +
	`,"category":"feature","category":"idea","category":"praise","category":"other","category":"question"` +
	`"rating":1,"status":"in_progress","rating":2,"status":"open","rating":3,"status":"resolved","rating":4,"status":"closed"` +
	`"screenshotUrl":"https://"},"metadata":{"email":","plan":","version":","appVersion":","sessionId":","userId":"user_` +
	`{"event":"feedback.created","timestamp":"2026-11-28T16:00:00Z","data":{"id":"fb_06","projectId":"proj_","widgetId":"w_default",` +
	`"message":"The ","category":"bug","rating":5,"status":"new","context":{"pageUrl":"https://www.","referrer":"https://www.",` +
	`"browser":"Chrome","browserVersion":"14","os":"Windows","deviceType":"desktop","viewport":{"width":1920,"height":1080},` +
	`"timezone":"Europe/Berlin","locale":"en-US","country":"US"},"metadata":{"userId":"user_"},"createdAt":"2026-11-28T16:00:00Z"}}`

// code1 is the table of a Huffman code, as package huff0 reads it. It was made of 900
// documents after S2 with dictionary1: half of their messages were English, the others in
// eleven languages, of them Russian, Japanese and Chinese. Every byte has a code. The table
// never changes either.
const code1 = "\x4f\x10\x78\x45\x45\x09\xcc\x90\xd4\x18\x06\x3c\x91\xd5\x50\x5c\x92\x3f\x7b\x78" +
	"\x6b\xc0\x13\x69\x4d\xc3\x76\xf0\x7b\xcc\xbc\x49\x6b\x99\x92\xa2\x4c\x49\x62\x47" +
	"\x64\x93\x1f\x79\xa0\xe0\x94\x0b\x11\xc8\x82\xa6\x81\x55\x1a\x8e\x01\xee\x34\x6c" +
	"\x49\x74\x37\xc5\x46\x0c\x2e\xd6\x06\x8f\x39\x7a\xe3\x65\xb7\x15\x23\x95\x4a\x02"
