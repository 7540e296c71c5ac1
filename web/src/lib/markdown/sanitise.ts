/**
 * The wall between a model's words and the page. The parser already escapes HTML; this holds even where it would not. What passes:
 * the elements that Markdown makes, no style, no handlers, no image, links to http, https and mailto only.
 */

import createPurify, { type DOMPurify } from "dompurify";

const TAGS =
  "a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr input li ol p pre s span strong table tbody td th thead tr ul".split(
    " ",
  );
const ATTRIBUTES = [
  "checked",
  "class",
  "data-address",
  "data-language",
  "disabled",
  "href",
  "start",
  "tabindex",
  "title",
  "type",
];
const CLASSES = /^(task|table|image|math|display|align-(left|right|center)|hljs-?[\w-]*|language-[\w+#-]*|[a-z]+_)$/;

function makePurify(): DOMPurify {
  const purify = createPurify(window);
  purify.addHook("afterSanitizeAttributes", (element) => {
    if (element.hasAttribute("class")) {
      const classes = [...element.classList].filter((name) => CLASSES.test(name));
      if (classes.length > 0) element.setAttribute("class", classes.join(" "));
      else element.removeAttribute("class");
    }
    if (element.tagName === "A") {
      element.setAttribute("target", "_blank");
      element.setAttribute("rel", "noopener noreferrer nofollow");
    }
    if (element.tagName === "INPUT") {
      element.setAttribute("type", "checkbox");
      element.setAttribute("disabled", "");
    }
  });
  return purify;
}

const purify = makePurify();

export function sanitise(html: string): DocumentFragment {
  return purify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    // DOMPurify holds every other attribute against the pattern of addresses too.
    ADD_URI_SAFE_ATTR: ATTRIBUTES.filter((name) => name !== "href"),
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
    RETURN_DOM_FRAGMENT: true,
  });
}
