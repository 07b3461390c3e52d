package command

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/signature"
)

// maxVerified bounds the body, in bytes. Events are far shorter.
const maxVerified = 16 << 20

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify --secret <secret> --signature <signature> < body",
		Short: "Verifies a signature and explains why it is wrong",
		Long: `
Verifies the signature of a request that a receiver got. The request's body is
read from standard input. If the signature is wrong, it looks for the mistake: a
body that was parsed and written again, an added newline, white space around the
secret, another encoding, another secret.

It needs no running Caddy. It exits with 1 if the signature is wrong.`,
		Example: `  caddy userhero verify --secret "$SECRET" --signature sha256=6c1d… < body
  caddy userhero verify --secret "$SECRET" --signature "v1,K5oZ…" \
    --id dlv_01… --timestamp 1767799800 < body`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxVerified+1))
			switch {
			case err != nil:
				return fmt.Errorf("reading the body from standard input: %w", err)
			case len(body) > maxVerified:
				return errors.New("the body on standard input is too long for an event: give the body of one request")
			}
			verdict := signature.Explain(signature.Request{
				Secret:    flagText(cmd, "secret"),
				Signature: flagText(cmd, "signature"),
				ID:        flagText(cmd, "id"),
				Timestamp: flagText(cmd, "timestamp"),
				Body:      body,
			}, event.Canonical)
			if verdict.Valid {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "The signature is right for this secret and these %d bytes.\n", len(body))
				return err
			}
			reasons := strings.Join(verdict.Reasons, "\n- ")
			if verdict.Explained {
				return errors.New("the signature is wrong:\n- " + reasons)
			}
			return errors.New("the signature cannot be verified:\n- " + reasons)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("secret", "", "The webhook's secret")
	flags.String("signature", "", "The value of X-UserHero-Signature or of webhook-signature")
	flags.String("id", "", "The value of webhook-id, for a webhook-signature")
	flags.String("timestamp", "", "The value of webhook-timestamp, for a webhook-signature")
	return cmd
}
