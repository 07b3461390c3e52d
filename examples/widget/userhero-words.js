/*!
 * The widget's words in German, French, Spanish and Japanese. Load it before
 * the widget, which takes those of the page's language (<html lang>):
 *
 *   <script src="userhero-words.js" defer></script>
 *   <script src="userhero-widget.js" defer></script>
 *
 * The order: button and title, message, category, bug, idea, question, rating,
 * send, close, thanks, refused, kept, sending, full.
 */
window.UserHeroWords = {
  de:
    "Feedback|Nachricht|Thema|Fehler|Idee|Frage|Bewertung|Senden|Schließen|Danke!|" +
    "Nicht angenommen. Bitte ändern und noch einmal senden.|Hier gespeichert, wird später gesendet.|Wird gesendet|" +
    "Kein Platz. Bitte später versuchen.",
  fr:
    "Votre avis|Message|Sujet|Problème|Idée|Question|Note|Envoyer|Fermer|Merci !|" +
    "Refusé. Modifiez votre message, puis renvoyez-le.|Conservé ici, envoyé plus tard.|Envoi en cours|" +
    "Plus de place. Réessayez plus tard.",
  es:
    "Comentarios|Mensaje|Tema|Error|Idea|Pregunta|Valoración|Enviar|Cerrar|¡Gracias!|" +
    "No aceptado. Cambie el mensaje y vuelva a enviarlo.|Guardado aquí, se enviará más tarde.|Enviando|" +
    "No hay espacio. Inténtelo más tarde.",
  ja:
    "ご意見|メッセージ|種類|不具合|要望|質問|評価|送信|閉じる|ありがとうございます。|" +
    "受け付けられませんでした。修正して再送信してください。|保存しました。後で送信します。|送信中|" +
    "保存できません。後でもう一度お試しください。",
};
