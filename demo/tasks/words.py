"""The word lists that the demo's tasks draw from. Data only; every list was written for this project."""

from __future__ import annotations

NAMES = tuple(
    "Ada Alma Anna Ben Bruno Carla Cora Dana David Elif Ella Emma Erik Eva Felix Fred Gina Greta Hana Hugo Ida Igor "
    "Iris Ivan Jack Jana Jonas Julia Kai Karl Kim Lara Lea Leo Lily Lina Luca Lucy Maria Mark Max Mia Milo Mona Nadia "
    "Nina Noah Nora Olga Oscar Otto Paula Peter Rosa Ruth Sam Sara Simon Sofia Tara Theo Tim Tom Vera "
    "Victor Zoe".split()
)

PLACES = tuple(
    "Athens Bergen Berlin Bern Bilbao Boston Cairo Delhi Denver Dublin Geneva Genoa Hanoi Havana Helsinki Kyoto Lagos "
    "Lima Lisbon London Lyon Madrid Malmo Manila Milan Munich Nairobi Naples Oslo Paris Porto Prague Quito Riga Rome "
    "Seattle Seoul Seville Sofia Sydney Tampa Tokyo Toronto Turin Utrecht Vienna Warsaw York Zagreb Zurich".split()
)

JOBS = tuple(
    "baker barber builder carpenter chef cook dentist doctor driver engineer farmer fisher gardener guard judge "
    "lawyer librarian mechanic miner musician nurse painter pilot plumber potter sailor singer tailor teacher waiter "
    "writer".split()
)

FOODS = tuple(
    "apples bananas beans bread butter carrots cheese cherries corn figs grapes honey lemons lentils melons mushrooms "
    "noodles nuts olives onions oranges peaches pears peas plums potatoes rice soup tomatoes".split()
)

ANIMALS = tuple(
    "badger bear cat crow dog dolphin donkey duck fox frog goat goose hare hedgehog horse lion mouse otter owl rabbit "
    "sheep wolf".split()
)

COLORS = tuple("black blue brown gold green grey orange pink purple red silver white yellow".split())

THINGS = tuple(
    "anchor apple arrow bag ball basket bell bird boat book bottle bowl box bread bridge brush bucket button cake "
    "candle card cart chair clock cloud coat coin cup desk door drum engine feather field flag flower fork garden "
    "gate glass glove hammer hat house island jacket key kite ladder lake lamp leaf letter map mirror moon mountain "
    "needle nest ocean paper pear pen pencil phone piano picture pillow plate pocket pond radio rain ring river road "
    "rock roof rope scarf ship shirt shoe sky snow spoon star stone storm street sugar sun table tent tower train "
    "tree valley violin wagon wall watch water wheel window wind wood".split()
)

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

WORDS = tuple(sorted({*NAMES, *PLACES, *JOBS, *FOODS, *ANIMALS, *COLORS, *THINGS}))

TOPICS = tuple(
    "art astronomy banks bees biology bread bridges castles chemistry chess cinema climate coffee computers dance "
    "dinosaurs dreams economics electricity fashion flight football forests gold gravity history insects islands jazz "
    "justice languages law light love magnets maths medicine memory money mountains music opera paper philosophy "
    "physics planets plants poetry politics pottery rain rivers robots rockets roses salt sharks silk snow spiders "
    "stars steel tea tennis theatre time trade trains trees volcanoes war water whales wine winter".split()
)

SYSTEM_TURNS = (
    "You are a helpful assistant.",
    "You are a small helpful model.",
    "Answer briefly.",
    "You are a careful assistant. Answer the question.",
    "Be short and exact.",
)
