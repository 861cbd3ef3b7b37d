// What the pages do beyond what they show without a script.
"use strict";

// The time in the reader's own zone, when the pointer rests on one.
document.addEventListener("pointerover", ({ target }) => {
  const time = target.closest?.("time");
  if (time && !time.title) time.title = new Date(time.dateTime).toLocaleString();
});

// `eventferry console` gives the token behind the #, which is sent to no server and written into no log.
const form = document.getElementById("sign-in");
if (form && location.hash.length > 1) {
  form.elements.token.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
  form.requestSubmit();
}
