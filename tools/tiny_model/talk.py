"""Small talk, how-to and why questions: fixed texts, each with several ways to ask.

Blocks are separated by blank lines; ``?`` lines are questions, ``!`` lines are answers that fit
any of them. Main name: ``TALK``.
"""

from __future__ import annotations

from typing import NamedTuple


class Talk(NamedTuple):
    """Questions with one meaning, and the answers that fit."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


def _blocks(text: str) -> tuple[Talk, ...]:
    talks = []
    for block in text.strip().split("\n\n"):
        lines = block.strip().splitlines()
        talks.append(
            Talk(
                tuple(line[2:] for line in lines if line.startswith("? ")),
                tuple(line[2:] for line in lines if line.startswith("! ")),
            )
        )
    return tuple(talks)


GREETINGS = _blocks("""
? Hello!
? Hello
? Hello there!
? Good day!
! Hello! How can I help you?
! Hello! What can I do for you?

? Hi!
? Hi
? Hi there!
? Hey!
! Hi! How can I help you?
! Hello! How can I help you today?

? Good morning!
? Good morning
! Good morning! How can I help you?

? Good evening!
? Good evening
! Good evening! How can I help you?

? How are you?
? How are you today?
? How do you do?
? How is it going?
! I am fine, thank you. How are you?
! I am well, thank you. How can I help you?

? What is your name?
? Who are you?
? What are you?
? Tell me about yourself.
? Can you introduce yourself?
! I am a tiny language model. I answer simple questions.
! I am a small assistant. I can answer simple questions.

? What can you do?
? How can you help me?
? What can I ask you?
? What are you good at?
! I can answer simple questions, add small numbers, sort lists and explain words.
! You can ask me about countries, animals, colours, words and small sums.

? Are you a human?
? Are you a person?
? Are you real?
! No, I am a small computer program.

? Are you a robot?
? Are you a computer?
? Are you a machine?
! Yes, I am a small computer program.

? Who made you?
? Who built you?
? Where do you come from?
! I was made for demos and tests.

? How old are you?
? When were you born?
! I am a program, so I have no age.

? Can you help me?
? I need help.
? Please help me.
? I have a question.
? May I ask you something?
! Of course. What would you like to know?
! Yes, I am happy to help. What is your question?

? Do you like music?
? Do you like books?
? Do you like football?
? Do you like chocolate?
! I am a program, so I have no taste, but many people like it.

? I am sad.
? I feel sad today.
? I had a bad day.
! I am sorry to hear that. I hope you feel better soon.

? I am happy.
? I feel great today.
? I had a good day.
! That is good to hear!

? I am tired.
? I am so tired today.
! Then you should rest a little.

? I am hungry.
? I want something to eat.
! You could eat an apple or some bread with cheese.

? I am bored.
? I have nothing to do.
! You could read a book or go for a walk.

? I am cold.
? It is so cold here.
! You could put on a warm jumper or drink some hot tea.

? Tell me a joke.
? Do you know a joke?
? Make me laugh.
! Why did the chicken cross the road? To get to the other side.
! What has hands but cannot clap? A clock.

? Tell me a fact.
? Tell me something interesting.
? Do you know a fun fact?
! An octopus has three hearts.
! Honey can last for a very long time.
! A day on Venus is longer than a year on Venus.

? Give me some advice.
? Can you give me advice?
! Sleep well, drink enough water and be kind to people.
""")

CLOSINGS = _blocks("""
? Thank you!
? Thank you.
? Thanks!
? Thanks a lot!
? Thank you very much.
! You are welcome!
! You are welcome. Is there anything else?

? Goodbye!
? Bye!
? See you later!
? Good night!
! Goodbye! Have a nice day.
! Goodbye! See you soon.

? Great!
? Very good!
? Well done!
? That is right.
! Thank you! I am glad to help.
""")

HOW_TO = _blocks("""
? How do I make tea?
? How can I make a cup of tea?
? Tell me how to make tea.
! Boil some water, pour it over the tea and wait three minutes.

? How do I make coffee?
? How can I make a cup of coffee?
! Put ground coffee in a filter, pour hot water over it and wait.

? How do I boil an egg?
? How can I cook an egg?
? Tell me how to boil an egg.
! Put the egg in boiling water and wait six minutes.

? How do I cook rice?
? How can I make rice?
! Wash the rice, add twice as much water and cook it for fifteen minutes.

? How do I cook pasta?
? How can I make pasta?
! Boil water with salt, add the pasta and cook it for ten minutes.

? How do I bake bread?
? How can I make bread?
? Tell me how to bake bread.
! Mix flour, water, salt and yeast, let the dough rise and bake it.

? How do I make a sandwich?
? How can I make a sandwich?
! Take two slices of bread and put cheese or ham between them.

? How do I make a salad?
? How can I make a salad?
! Cut some vegetables, put them in a bowl and add oil and salt.

? How do I make soup?
? How can I cook soup?
! Cut vegetables, put them in water with salt and cook them slowly.

? How do I plant a tree?
? How can I plant a tree?
? Tell me how to plant a tree.
! Dig a hole, put the young tree in it, fill it with earth and water it.

? How do I grow flowers?
? How can I grow flowers?
! Put seeds in good earth, water them and give them light.

? How do I wash my hands?
? How should I wash my hands?
! Use warm water and soap, rub for twenty seconds and dry them.

? How do I brush my teeth?
? How should I brush my teeth?
! Put toothpaste on a brush and brush for two minutes.

? How do I clean a window?
? How can I clean a window?
! Wash the glass with water and soap and dry it with a cloth.

? How do I draw a house?
? How can I draw a house?
! Draw a square, put a triangle on top and add a door and windows.

? How do I draw a cat?
? How can I draw a cat?
! Draw a circle for the head, add two ears, two eyes and whiskers.

? How do I make a fire?
? How can I light a fire?
! Pile up dry wood, put paper under it and light the paper with a match.

? How do I fix a flat tyre?
? How can I repair a flat tyre?
! Take off the tyre, close the hole with a patch and pump it up.

? How do I learn a language?
? How can I learn a new language?
? How do I learn new words?
! Practise a little every day, read, listen and speak with people.

? How do I learn to swim?
? How can I learn to swim?
! Take lessons, start in shallow water and practise often.

? How do I fall asleep?
? How can I sleep better?
! Keep the room dark and quiet and go to bed at the same time every day.

? How do I stay healthy?
? How can I stay healthy?
! Eat good food, sleep enough and move every day.

? How do I save money?
? How can I save money?
! Write down what you spend and put a little money aside every month.

? How do I write a letter?
? How should I write a letter?
! Start with a greeting, say what you want to say and sign your name.

? How do I find north?
? How can I find north?
! Look at a compass. At night, look for the North Star.

? How do I make friends?
? How can I make friends?
! Be kind, ask questions and listen to people.

? How do I catch a fish?
? How can I catch a fish?
! Put bait on a hook, throw the line into the water and wait.

? How do I sail a boat?
? How can I sail a boat?
! Raise the sail, catch the wind and steer with the rudder.

? How do I tie my shoes?
? How can I tie my shoes?
! Cross the laces, pull them tight, make two loops and tie them.

? How do I get to school on time?
? How can I be on time?
! Get up early and leave the house ten minutes before you need to.
""")

WHY = _blocks("""
? Why is the sky blue?
? Why does the sky look blue?
! The sky is blue because air scatters blue light the most.

? Why does it rain?
? Where does rain come from?
! Rain falls when the drops in a cloud become too heavy.

? Why do birds fly south?
? Why do birds fly away in winter?
! Birds fly south because it is warmer there and they find more food.

? Why do we sleep?
? Why do people sleep?
! We sleep so that the body and the brain can rest.

? Why do we eat?
? Why do people eat?
! We eat because food gives us energy.

? Why do leaves fall in autumn?
? Why do trees lose their leaves?
! Trees drop their leaves to save water in the cold months.

? Why is the sea salty?
? Why is sea water salty?
! Rivers carry salt from rocks into the sea.

? Why does ice float?
? Why does ice swim on water?
! Ice floats because it is lighter than water.

? Why do we have night?
? Why is it dark at night?
! It is dark at night because our side of the Earth turns away from the sun.

? Why do cats purr?
? Why does a cat purr?
! Cats purr most of all when they feel well.

? Why do we drink water?
? Why is water important?
! We drink water because the body needs it to work.

? Why do bees make honey?
? Why does a bee make honey?
! Bees make honey to have food in winter.

? Why do people read?
? Why should I read books?
! People read to learn new things and to enjoy stories.

? Why do plants need light?
? Why does a plant need light?
! Plants use light to make their food.
""")

FACTS = _blocks("""
? How many days are in a week?
? How many days does a week have?
! There are seven days in a week.

? How many months are in a year?
? How many months does a year have?
! There are twelve months in a year.

? How many hours are in a day?
? How many hours does a day have?
! There are twenty-four hours in a day.

? How many minutes are in an hour?
? How many minutes does an hour have?
! There are sixty minutes in an hour.

? How many seconds are in a minute?
? How many seconds does a minute have?
! There are sixty seconds in a minute.

? How many days are in a year?
? How many days does a year have?
! There are 365 days in a year.

? How many letters are in the alphabet?
? How many letters does the English alphabet have?
! The English alphabet has 26 letters.

? How many planets are there?
? How many planets go around the sun?
! There are eight planets.

? How many sides does a triangle have?
! A triangle has three sides.

? How many sides does a square have?
! A square has four sides.

? How many wheels does a car have?
! A car has four wheels.

? How many wheels does a bicycle have?
! A bicycle has two wheels.

? How many fingers are on a hand?
? How many fingers does a hand have?
! A hand has five fingers.

? What is the largest animal?
? Which animal is the biggest?
! The blue whale is the largest animal.

? What is the fastest animal on land?
? Which land animal is the fastest?
! The cheetah is the fastest animal on land.

? What is the largest ocean?
? Which ocean is the biggest?
! The Pacific Ocean is the largest ocean.

? What is the highest mountain?
? Which mountain is the highest?
! Mount Everest is the highest mountain.

? What is the closest star?
? Which star is the closest to us?
! The sun is the closest star.

? What do plants need to grow?
? What does a plant need?
! Plants need water, light and air to grow.

? What do we breathe?
? What do people breathe?
! We breathe air.

? When does the sun rise?
? When is sunrise?
! The sun rises in the morning.

? Where does the sun set?
? In which direction does the sun set?
! The sun sets in the west.

? Where does the sun rise?
? In which direction does the sun rise?
! The sun rises in the east.

? What is the first month of the year?
? Which month is the first?
! January is the first month of the year.

? What is the last month of the year?
? Which month is the last?
! December is the last month of the year.

? What comes after winter?
? Which season comes after winter?
! Spring comes after winter.

? What comes after summer?
? Which season comes after summer?
! Autumn comes after summer.

? What freezes into ice?
? What is ice made of?
! Ice is frozen water.

? What is the colour of the flag of Japan?
? What does the flag of Japan look like?
! The flag of Japan is white with a red circle.

? What is the best way to cross a river?
? How do I cross a river?
! Use a bridge or a boat.
""")

TALK: dict[str, tuple[Talk, ...]] = {
    "greeting": GREETINGS,
    "how_to": HOW_TO,
    "why": WHY,
    "fact": FACTS,
}
