// The prompts on the empty page. Each must be something this model really can do: tune them here.
// icon: a name in icons.js; label: what it shows; prompt: what is sent.
export const EXAMPLES = [
  {
    icon: "book",
    label: "Follow a small story",
    prompt:
      "Anna went to the garden. Tom went to the kitchen. Tom took the lamp. Where is the lamp?",
  },
  { icon: "calculator", label: "Use the calculator", prompt: "What is 48*7?" },
  { icon: "letters", label: "Spell a word", prompt: "Spell lantern." },
  { icon: "count", label: "Count letters", prompt: "How many a are in banana?" },
  { icon: "person", label: "Say who it is", prompt: "Who are you?" },
  { icon: "pen", label: "Tell a story", prompt: "Tell me a story about Anna and a lamp." },
];
