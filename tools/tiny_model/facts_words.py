"""Facts about words: opposites, forms, translations, categories, definitions, word lists.

Main names: ``WORDS`` (relations), ``DEFINITIONS``, ``CATEGORIES``, ``LETTER_WORDS``.
"""

from __future__ import annotations

from facts_world import Relation, a, pairs, words

OPPOSITES = pairs("""hot: cold; big: small; fast: slow; high: low; old: young; new: old; light:
dark; day: night; up: down;
left: right; in: out; open: closed; full: empty; happy: sad; good: bad; rich: poor; hard: soft; wet:
dry;
strong: weak; loud: quiet; early: late; near: far; long: short; wide: narrow; thick: thin; heavy:
light;
clean: dirty; true: false; right: wrong; first: last; begin: end; love: hate; win: lose; buy: sell;
give: take;
push: pull; come: go; ask: answer; laugh: cry; live: die; sweet: sour; deep: shallow; smooth: rough;
sharp: blunt;
brave: afraid; kind: cruel; easy: difficult; safe: dangerous; cheap: expensive; north: south; east:
west;
summer: winter; black: white; friend: enemy; always: never; many: few; more: less; above: below;
inside: outside;
before: after; top: bottom; front: back; yes: no; war: peace; tall: short; alive: dead; asleep:
awake; warm: cool;
noisy: silent; simple: complex; bright: dim; tight: loose; young: old; start: stop; remember:
forget; arrive: leave""")

SYNONYMS = pairs("""big: large; small: little; fast: quick; happy: glad; sad: unhappy; begin: start;
end: finish; smart: clever;
quiet: silent; angry: mad; scared: afraid; pretty: beautiful; tired: sleepy; rich: wealthy; hard:
difficult;
easy: simple; strange: odd; close: near; shut: close; talk: speak; look: see; jump: leap; run: race;
shout: yell;
gift: present; street: road; child: kid; boat: ship; house: home; rock: stone; forest: wood;
correct: right;
cold: chilly; brave: bold; kind: friendly; loud: noisy; help: aid; choose: pick; repair: fix;
answer: reply;
error: mistake; story: tale; job: work; fun: joy; woman: lady; man: gentleman; ocean: sea; stop:
halt""")

PLURALS = pairs("""mouse: mice; child: children; man: men; woman: women; foot: feet; tooth: teeth;
goose: geese; person: people;
sheep: sheep; fish: fish; knife: knives; leaf: leaves; wolf: wolves; baby: babies; city: cities;
story: stories;
box: boxes; bus: buses; dish: dishes; potato: potatoes; cat: cats; dog: dogs; book: books; tree:
trees; house: houses;
car: cars; apple: apples; bird: birds; star: stars; chair: chairs; lamp: lamps; hat: hats; key:
keys; boy: boys;
day: days; fox: foxes; berry: berries; shelf: shelves; loaf: loaves; hero: heroes; cup: cups; ship:
ships""")

PASTS = pairs("""go: went; see: saw; eat: ate; run: ran; come: came; take: took; give: gave; make:
made; have: had; do: did;
say: said; get: got; find: found; think: thought; buy: bought; bring: brought; teach: taught; catch:
caught;
write: wrote; speak: spoke; break: broke; sing: sang; drink: drank; swim: swam; begin: began; know:
knew; fly: flew;
grow: grew; throw: threw; draw: drew; sleep: slept; keep: kept; leave: left; feel: felt; meet: met;
sit: sat;
stand: stood; tell: told; sell: sold; win: won; walk: walked; play: played; jump: jumped; cook:
cooked; help: helped;
look: looked; call: called; ask: asked; work: worked; open: opened; stop: stopped; carry: carried;
try: tried""")

FRENCH = pairs("""dog: chien; cat: chat; house: maison; water: eau; bread: pain; book: livre; red:
rouge; blue: bleu; green: vert;
sun: soleil; moon: lune; friend: ami; day: jour; night: nuit; thank you: merci; hello: bonjour; yes:
oui; no: non;
tree: arbre; milk: lait; apple: pomme; fish: poisson; bird: oiseau; hand: main; one: un; two: deux;
three: trois;
school: école; mother: mère; father: père; king: roi; love: amour; goodbye: au revoir; cheese:
fromage""")

SPANISH = pairs("""dog: perro; cat: gato; house: casa; water: agua; bread: pan; book: libro; red:
rojo; blue: azul; green: verde;
sun: sol; moon: luna; friend: amigo; day: día; night: noche; thank you: gracias; hello: hola; yes:
sí; no: no;
tree: árbol; milk: leche; apple: manzana; fish: pez; bird: pájaro; hand: mano; one: uno; two: dos;
three: tres;
school: escuela; mother: madre; father: padre; king: rey; love: amor; goodbye: adiós; cheese:
queso""")

GERMAN = pairs("""dog: Hund; cat: Katze; house: Haus; water: Wasser; bread: Brot; book: Buch; red:
rot; blue: blau; green: grün;
sun: Sonne; moon: Mond; friend: Freund; day: Tag; night: Nacht; thank you: danke; hello: hallo; yes:
ja; no: nein;
tree: Baum; milk: Milch; apple: Apfel; fish: Fisch; bird: Vogel; hand: Hand; one: eins; two: zwei;
three: drei;
school: Schule; mother: Mutter; father: Vater; king: König; love: Liebe; cheese: Käse""")

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: words(members)
    for name, members in pairs("""
    fruit: apple banana orange lemon grape cherry pear plum peach strawberry melon mango kiwi lime;
    vegetable: carrot potato onion cabbage pea bean cucumber leek pumpkin lettuce spinach turnip;
    animal: dog cat cow horse lion tiger bear wolf fox rabbit sheep goat pig mouse elephant monkey;
    bird: eagle owl crow robin sparrow swan duck goose penguin parrot hen pigeon;
    fish: salmon tuna trout shark cod herring carp;
    insect: ant bee fly beetle butterfly wasp moth mosquito;
    tool: hammer saw drill axe shovel rake wrench screwdriver;
    colour: red blue green yellow orange purple pink brown black white grey;
    flower: rose tulip daisy lily violet sunflower poppy;
    tree: oak pine birch maple willow elm;
    drink: water milk tea coffee juice lemonade;
    vehicle: car bus train bike boat plane truck tram ship;
    instrument: piano guitar violin drum flute trumpet harp;
    sport: football tennis swimming running hockey golf rowing;
    metal: iron gold silver copper tin lead steel;
    planet: Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune;
    season: spring summer autumn winter;
    room: kitchen bedroom bathroom hall attic cellar;
    month: January February March April May June July August September October November December;
    day: Monday Tuesday Wednesday Thursday Friday Saturday Sunday""").items()
}

DEFINITIONS = pairs("""hammer: a tool for hitting nails; river: a long stream of water that flows to
the sea;
mountain: a very high hill; island: land with water all around it; desert: a dry place with little
rain;
forest: a large place full of trees; lake: a big body of water with land around it; volcano: a
mountain that can throw out hot rock;
bridge: a road over a river or a valley; library: a place where you can read and borrow books;
school: a place where children learn;
hospital: a place where sick people are cared for; museum: a place that shows old or beautiful
things; market: a place where people buy and sell;
garden: a piece of land with plants and flowers; farm: a place where people grow food and keep
animals; castle: a large old house with strong walls;
ship: a large boat that sails on the sea; train: a row of cars that runs on rails; bicycle: a
vehicle with two wheels and pedals;
computer: a machine that works with data; telephone: a device for talking to people far away; clock:
a machine that shows the time;
compass: a device that shows where north is; telescope: a tool for looking at things far away;
camera: a device for taking pictures;
dictionary: a book that explains words; poem: a short text in verse; story: a tale about people and
events; song: words set to music;
king: a man who rules a country; friend: a person you like and trust; neighbour: a person who lives
near you; family: a group of parents and children;
rain: water that falls from clouds; snow: frozen water that falls in soft white flakes; cloud: a
mass of tiny drops of water in the sky;
storm: bad weather with strong wind and rain; rainbow: an arch of colours in the sky; wind: moving
air; ice: frozen water; fire: burning that gives heat and light;
star: a huge ball of hot gas in space; planet: a large body that moves around a star; moon: a body
that moves around a planet;
seed: a small grain from which a plant grows; flower: the colourful part of a plant; tree: a tall
plant with a trunk and branches; fruit: the part of a plant that holds seeds;
bread: food baked from flour and water; cheese: food made from milk; soup: a hot liquid meal; honey:
a sweet food made by bees; salt: a white mineral that we put on food;
bee: an insect that makes honey; whale: a very large animal that lives in the sea; bat: a small
animal that flies at night; penguin: a bird that swims but cannot fly;
spider: a small animal with eight legs; elephant: a very big animal with a long trunk; giraffe: an
animal with a very long neck; camel: a desert animal with a hump;
heart: the part of the body that pumps blood; brain: the part of the body that thinks; bone: a hard
part inside the body; tooth: a hard white thing in the mouth for biting;
number: a word or sign for counting; circle: a round shape; square: a shape with four equal sides;
triangle: a shape with three sides;
minute: a time of sixty seconds; year: a time of twelve months; century: a time of one hundred
years; week: a time of seven days;
game: something people play for fun; gift: something you give to someone; letter: a written message;
map: a picture of a place from above;
model: a small or simple copy of something; question: a sentence that asks for an answer; secret:
something that few people know; dream: pictures in your mind while you sleep;
ladder: a set of steps for climbing; umbrella: a thing that keeps you dry in the rain; candle: a
stick of wax that burns; mirror: a glass in which you see yourself;
kitchen: a room where people cook; window: an opening with glass in a wall; door: a thing you open
to enter a room; roof: the top of a house; wheel: a round thing that turns""")

DAYS = CATEGORIES["day"]
MONTHS = CATEGORIES["month"]
NUMBERS = words("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
""")
TENS = pairs("""20: twenty; 30: thirty; 40: forty; 50: fifty; 60: sixty; 70: seventy; 80: eighty;
90: ninety; 100: one hundred""")


def _ring(items: tuple[str, ...], step: int) -> dict[str, str]:
    return {item: items[(i + step) % len(items)] for i, item in enumerate(items)}


def _numbers_in_words() -> dict[str, str]:
    table = {str(i): word for i, word in enumerate(NUMBERS)} | TENS
    for ten in range(20, 100, 10):
        table |= {str(ten + i): f"{TENS[str(ten)]}-{NUMBERS[i]}" for i in range(1, 10)}
    return table


NUMBER_WORDS = _numbers_in_words()
KINDS = {
    a(word): a(kind)
    for kind, members in CATEGORIES.items()
    for word in members
    if kind not in ("drink", "colour", "season", "sport", "metal", "planet", "month", "day")
}
_MASS = {"rain", "snow", "wind", "ice", "fire", "bread", "cheese", "soup", "honey", "salt"}
MEANINGS = {(word if word in _MASS else a(word)): text for word, text in DEFINITIONS.items()}


def _translation(language: str, table: dict[str, str]) -> Relation:
    return Relation(
        f"to_{language.lower()}",
        (
            f'What is "{{s}}" in {language}?',
            f"How do you say {{s}} in {language}?",
            f"Translate {{s}} into {language}.",
            f"What is the {language} word for {{s}}?",
        ),
        (f'The {language} word for "{{s}}" is "{{o}}".', f'In {language}, "{{s}}" is "{{o}}".'),
        table,
    )


WORDS: tuple[Relation, ...] = (
    Relation(
        "opposite",
        (
            "What is the opposite of {s}?",
            "Give me the opposite of {s}.",
            'What is the opposite of "{s}"?',
            "Which word is the opposite of {s}?",
            "Tell me the opposite of the word {s}.",
        ),
        ("The opposite of {s} is {o}.", "It is {o}."),
        OPPOSITES,
    ),
    Relation(
        "synonym",
        (
            "What is another word for {s}?",
            "Give me a synonym for {s}.",
            "Which word means the same as {s}?",
            "Name a word that means {s}.",
        ),
        ("Another word for {s} is {o}.", "A synonym for {s} is {o}."),
        SYNONYMS,
    ),
    Relation(
        "plural",
        (
            "What is the plural of {s}?",
            "Give me the plural of {s}.",
            "What is the plural form of {s}?",
        ),
        ("The plural of {s} is {o}.",),
        PLURALS,
    ),
    Relation(
        "past",
        (
            "What is the past tense of {s}?",
            "Give me the past tense of {s}.",
            "What is the past form of the verb {s}?",
        ),
        ("The past tense of {s} is {o}.",),
        PASTS,
    ),
    _translation("French", FRENCH),
    _translation("Spanish", SPANISH),
    _translation("German", GERMAN),
    Relation(
        "meaning",
        (
            "What is {s}?",
            "What does the word {s} mean?",
            "Can you explain what {s} is?",
            "Tell me what {s} is.",
            "Explain the word {s}.",
            "Define {s}.",
        ),
        ("{s} is {o}.",),
        MEANINGS,
    ),
    Relation(
        "kind",
        (
            "What kind of thing is {s}?",
            "What sort of thing is {s}?",
            "Which group does {s} belong to?",
        ),
        ("{s} is {o}.",),
        KINDS,
    ),
    Relation(
        "next_day",
        ("What day comes after {s}?", "Which day follows {s}?", "What is the day after {s}?"),
        ("The day after {s} is {o}.", "{o} comes after {s}."),
        _ring(DAYS, 1),
    ),
    Relation(
        "previous_day",
        ("What day comes before {s}?", "Which day is before {s}?", "What is the day before {s}?"),
        ("The day before {s} is {o}.", "{o} comes before {s}."),
        _ring(DAYS, -1),
    ),
    Relation(
        "next_month",
        ("What month comes after {s}?", "Which month follows {s}?"),
        ("The month after {s} is {o}.", "{o} comes after {s}."),
        _ring(MONTHS, 1),
    ),
    Relation(
        "previous_month",
        ("What month comes before {s}?", "Which month is before {s}?"),
        ("The month before {s} is {o}.", "{o} comes before {s}."),
        _ring(MONTHS, -1),
    ),
    Relation(
        "number_word",
        ("Write {s} in words.", "How do you write {s} in words?", "Spell out the number {s}."),
        ("{s} in words is {o}.",),
        NUMBER_WORDS,
    ),
    Relation(
        "number_digits",
        ("Write {s} in digits.", "Which number is {s}?", "Write the number {s} with digits."),
        ("{s} in digits is {o}.",),
        {word: digits for digits, word in NUMBER_WORDS.items()},
    ),
)

LETTER_WORDS: tuple[str, ...] = words("""
cat dog sun map red box cup hat pen key bed car bus ice egg ant bee cow fox hen owl pig rat arm
leg eye ear lip toe sky sea bird fish frog bear lion wolf deer duck goat crab moon star rain snow
wind fire tree leaf rose seed book desk lamp door wall roof ship boat road hill lake rock sand
gold iron milk cake soup rice meat salt game song ball doll kite drum bell ring coat shoe sock
king hand foot nose face hair back neck word name time year week hour blue pink grey cold warm
soft hard fast slow long tall wide apple lemon grape peach melon bread sugar honey water juice
horse sheep tiger mouse eagle snake whale shark zebra camel plant grass river ocean beach cloud
storm stone metal glass paper chair table couch clock phone plate spoon knife house tower train
truck plane green white black brown happy sweet quiet brave quick light heart brain mouth tooth
hands smile laugh dance music piano story world night month train money shirt skirt dress watch
brush broom towel lucky early later above below under after seven three eight sixty banana orange
cherry potato tomato carrot onions rabbit monkey kitten turtle spider insect flower garden forest
island desert valley summer winter spring autumn window kitchen bridge castle market school doctor
farmer singer writer driver pencil letter number circle square yellow purple silver copper cotton
button pocket jacket basket bottle candle mirror pillow hammer ladder bucket engine rocket planet
friend family mother father sister people nature travel answer simple bright gentle strong clever
little better always travel
""")
