// Sends the form as JSON. Without this script the browser sends it as a form,
// which the intake takes as well.
const form = document.getElementById('feedback');
const outcome = document.getElementById('outcome');
const button = form.querySelector('button');

function say(text, kind) {
  outcome.textContent = text;
  outcome.className = kind;
}

function submission() {
  const fields = new FormData(form);
  const feedback = {
    message: fields.get('message'),
    category: fields.get('category'),
    context: {
      pageUrl: location.pathname,
      viewport: { width: innerWidth, height: innerHeight },
      timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      locale: navigator.language,
    },
  };
  if (fields.get('rating')) {
    feedback.rating = Number(fields.get('rating'));
  }
  return feedback;
}

form.addEventListener('submit', async (submitted) => {
  submitted.preventDefault();
  button.disabled = true;
  say('Sending …', '');
  try {
    const response = await fetch(form.action, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(submission()),
    });
    const answer = await response.json();
    if (!response.ok) {
      throw new Error(answer.errors?.map((e) => `${e.pointer} ${e.detail}`).join(', ') || answer.detail || answer.title);
    }
    form.reset();
    say(`Thank you. Your feedback is stored as ${answer.id}.`, 'good');
  } catch (error) {
    say(`It could not be sent: ${error.message}`, 'bad');
  } finally {
    button.disabled = false;
  }
});
