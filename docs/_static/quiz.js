// Questions under the exercises of a notebook. Each form stands below the list until this script puts
// it into the item that asks. What is accepted was found out by running the notebook, and lies in the
// form as base64, so that a glance at the source gives nothing away. Nothing is sent anywhere.
document.addEventListener("DOMContentLoaded", () => {
  const number = text => text.trim() === "" ? NaN : Number(text);
  const within = (value, low, high) => value >= low && value <= high;
  const bare = text => text.trim().replace(/^(["'`])(.*)\1$/, "$2");

  // whether what was typed or chosen is accepted
  function right(given, accepts) {
    const {value, low, high} = accepts;
    if (!Array.isArray(value)) return low === undefined ? given[0] === value : within(number(given[0]), low, high);
    if (given.length !== value.length) return false;
    if (low) return value.every((word, k) => low[k] === null ? given[k] === word : within(number(given[k]), low[k], high[k]));
    const [mine, theirs] = accepts.ordered ? [given, value] : [[...given].sort(), [...value].sort()];
    return theirs.every((word, k) => mine[k] === word);
  }

  // a sentence; what stands between backticks is code
  function write(place, text) {
    place.replaceChildren(...text.split("`").map((part, k) => {
      if (k % 2 === 0) return document.createTextNode(part);
      const code = document.createElement("code");
      code.textContent = part;
      return code;
    }));
  }

  for (const block of document.querySelectorAll(".quizzes")) {
    let list = block.previousElementSibling;
    while (list && list.tagName !== "OL") list = list.previousElementSibling;
    for (const form of block.querySelectorAll("form.quiz")) {
      const accepts = JSON.parse(atob(form.dataset.accepts));
      const result = form.querySelector(".quiz-result"), solution = form.querySelector(".quiz-solution");
      form.addEventListener("submit", event => {
        event.preventDefault();
        const typed = new FormData(form).getAll("answer");
        const separate = Array.isArray(accepts.value) && !form.querySelector("fieldset");
        const given = (separate ? typed[0].replace(/^[[({]|[\])}]$/g, "").split(",") : typed).map(bare);
        const solved = right(given, accepts);
        form.dataset.state = solved ? "right" : "wrong";
        write(result, solved ? "Right." : `Not right yet. Hint: ${accepts.hint.replace(/\.$/, "")}.`);
        solution.hidden = false;
      });
      solution.addEventListener("click", () => {
        const cell = document.querySelector(solution.getAttribute("href")).nextElementSibling;
        for (const closed of cell.querySelectorAll("details")) closed.open = true;
      });
      const item = list && list.children[form.dataset.exercise - 1];
      if (item) item.append(form);
    }
    block.hidden = false;
  }
});
