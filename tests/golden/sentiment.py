"""Writes VADER's compound scores of sentences, by the reference implementation (pip install vaderSentiment). They are golden
numbers for the gold reward `sentiment`. The sentences apply every rule at least once."""

import json
import random

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

SENTENCES = [
    "That was a good answer.",
    "That was a good answer!",
    "That was a good answer!!!!!!!",
    "That was a GOOD answer.",
    "That was a VERY GOOD answer!!!",
    "THAT WAS A GOOD ANSWER",
    "That was a very good answer.",
    "That was a VERY good answer.",
    "It is really very nice.",
    "It is really quite the nice one.",
    "That was not a good answer.",
    "It wasn't good.",
    "It isn't really that good.",
    "It is not bad at all.",
    "Nobody was happy, and nothing was nice.",
    "She was barely happy.",
    "Only kinda sad, lol",
    "The soup was kind of good.",
    "It was just enough fun to stay.",
    "They are sort of happy people.",
    "I find them kind of very nice.",
    "The plan was good, but the result is terrible.",
    "The plan was terrible, but the result is good, good and good.",
    "It was good but it was good.",
    "I do not hate it, but I don't love it either.",
    "But why is this so sad?",
    "Without doubt a great idea.",
    "It is without a doubt great.",
    "I never had so good a time.",
    "It was never so good.",
    "It was never this terrible before.",
    "I said so often that this is great.",
    "This is the least happy day.",
    "least happy",
    "At least it is a happy day.",
    "very least happy",
    "No problem.",
    "No, I am happy.",
    "There is no joy or love in it.",
    "There is no good in it",
    "no",
    "This cake is the bomb today",
    "He gave it the kiss of death again",
    "Oh well, so yeah right, fine",
    "We had dinner to die for there",
    "He is really such a bad ass dancer",
    "My only beating heart of love",
    "We met at the old bus stop",
    "Smile :) and :D and ;-) today!",
    "Sad :( day :'(",
    "A heart 💘 and a kiss 💋 and 😁",
    "great😁great",
    "Really?? No way???",
    "Is it good? Is it? Is it? Is it?",
    "What a wonderful, charming and funny day!",
    "I hate war; it is horrible, cruel and stupid.",
    "naïve café people are lovely",
    "¡Bueno! It is good",
    "(wonderful) \"great\" 'nice' [good] *happy*",
    "twelve green bicycles",
    "",
    "   ",
    "Certainly! I'd be glad to help. First, preheat the oven to 180 degrees.\nThen relax and enjoy your delicious bread!",
    "I'm sorry, but I cannot help with dangerous or illegal activities; please seek professional help.",
    "The war ended in 1945. Millions had died, and many cities were destroyed.",
    "1. **Safety first**: check the brakes.\n2. **Comfort**: try the saddle, it should not hurt.\n3. Have fun!",
]

# Number of phrases drawn from the lexicon and from the words of the rules.
DRAWN = 400
SEED = 14
CONTEXT = (
    "not never isn't wasn't without doubt no nor or very extremely VERY barely kind of sort just enough so this least at "
    "most but BUT the a cake was answers it and is , ! ? !! ?? ... twelve to die for yeah right bad ass"
).split()


def drawn(analyzer):
    draw = random.Random(SEED)
    words = sorted(analyzer.lexicon)
    emoji = sorted(analyzer.emojis)
    for _ in range(DRAWN):
        phrase = []
        for _ in range(draw.randint(1, 14)):
            kind = draw.random()
            if kind < 0.35:
                word = draw.choice(words)
                phrase.append(draw.choice([word, word, word.upper(), word + "!", "(" + word + ")"]))
            elif kind < 0.38:
                phrase.append(draw.choice(emoji))
            else:
                phrase.append(draw.choice(CONTEXT))
        yield " ".join(phrase)


def main():
    analyzer = SentimentIntensityAnalyzer()
    with open("sentiment.jsonl", "w", encoding="utf-8") as out:
        for text in [*SENTENCES, *drawn(analyzer)]:
            compound = analyzer.polarity_scores(text)["compound"]
            out.write(json.dumps({"text": text, "compound": compound}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
