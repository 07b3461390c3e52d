// Package text makes messages of a given length that read like real feedback. Each number
// gives its own message, and always the same one. So a run can be repeated, and what it
// submits is as hard to compress as real feedback.
package text

var sentences = [...]string{
	"I was trying to export the monthly report as PDF but the button stays grey.",
	"It used to work last week, before the new design came.",
	"We need the report for our meeting on Thursday.",
	"Love the new dashboard!",
	"One small wish: I would sort the table by date and not only by name.",
	"Please remember the order that I chose the last time I was here.",
	"Login fails with an invalid token after I changed my address in the profile.",
	"Support told me to clear cookies, did not help.",
	"The phone app works.",
	"The invoice from March shows the wrong VAT number.",
	"I have updated it twice, it is correct there, yet each new one still prints the old number.",
	"Our accountant rejects those invoices, so this is rather urgent for us.",
	"Since the last update the overview takes more than 20 seconds to load.",
	"Other pages are fast.",
	"Colleagues with a Mac have the same problem.",
	"The search does not find products whose name contains an accent.",
	"Cannot drag cards between columns on my iPad, they jump back after a second.",
	"On the laptop everything is fine.",
	"Just wanted to say thanks, the onboarding was super smooth.",
	"Only the part about webhooks was a bit short, I had to guess how the signature is computed.",
	"Typing in the comment box is laggy when there are more than 50 comments.",
	"Every key press takes about half a second to appear.",
	"Tested in private mode without extensions: the same.",
	"Please add dark mode, my eyes hurt at night :)",
	"Two people edited the same page at once, and the changes of one of them were lost.",
	"There was no warning, and the history lists only the second version.",
	"Is there any way to get the first version back from a backup?",
	"The contact form reloads the page and all that I wrote is gone.",
	"Tried three times, with Chrome on Android 14.",
	"Why do I have to confirm my e-mail again?",
	"The map is centred on the wrong city, about 40 km off.",
	"Could you send me the receipt once more? The link in the mail has expired.",
	"Great support, they answered within ten minutes on a Sunday.",
	"The chart in the second tab has no legend, so nobody knows which line is which.",
	"Prices are shown in dollars although my account is set to euros.",
	"After logging out I can still see the last page by pressing Back.",
}

// Append appends n bytes of text. They need no escapes in JSON.
func Append(b []byte, number uint64, n int) []byte {
	for end := len(b) + n; len(b) < end; {
		number = number*6364136223846793005 + 1442695040888963407 // Knuth, MMIX
		s := sentences[(number>>33)%uint64(len(sentences))]
		b = append(b, s[:min(len(s), end-len(b))]...)
		if len(b) < end {
			b = append(b, ' ')
		}
	}
	return b
}
